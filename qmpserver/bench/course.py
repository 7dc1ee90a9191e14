"""The course of a guest's progress under a limit, and how well the limit held. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

PAGES_PER_MB = 256
SECOND = 1_000_000_000
STEADY_S = (2.0, 6.0)
TOLERANCE = 0.05  # a limit has settled when every later second is within this part of it
STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Course:
    """The number of pages that a vCPU's guest had stored to, at `times`, in ns from the command on.

    Both increase, times strictly; there are at least two samples. Results are in seconds, in MB/s,
    and for errors in parts of the limit.
    """

    times: list[int]
    pages: list[int]

    def _pages_at(self, seconds: float) -> float:
        """Return the pages stored to until then, interpolated between two samples."""
        moment = min(max(seconds * SECOND, self.times[0]), self.times[-1])
        j = max(bisect_left(self.times, moment), 1)
        i = j - 1
        part = (moment - self.times[i]) / (self.times[j] - self.times[i])
        return self.pages[i] + part * (self.pages[j] - self.pages[i])

    def rate(self, start: float, end: float) -> float:
        """Return the MB/s from `start` to `end`, both within the course."""
        return (self._pages_at(end) - self._pages_at(start)) / PAGES_PER_MB / (end - start)

    def rates(self, step: float) -> list[float]:
        """Return the MB/s in each whole `step` seconds of the course."""
        count = int(self.times[-1] / SECOND / step + 0.01)
        return [self.rate(i * step, (i + 1) * step) for i in range(count)]

    def longest_pause(self) -> float:
        """Return the longest time without progress, to the precision of the samples."""
        longest, moved = 0, self.times[0]
        for (_, before), (when, now) in pairwise(zip(self.times, self.pages, strict=True)):
            if now != before:
                longest = max(longest, when - moved)
                moved = when
        return max(longest, self.times[-1] - moved) / SECOND

    def first_error(self, limit: float) -> float:
        """Return the error in the first full second after the command."""
        return self.rate(0, 1) / limit - 1

    def steady_error(self, limit: float) -> float:
        """Return the error from the second to the sixth second after the command."""
        return self.rate(*STEADY_S) / limit - 1

    def settling_time(self, limit: float) -> float | None:
        """Return the time after which every full second is within `TOLERANCE`, if any."""
        steps = int((self.times[-1] / SECOND - 1) / STEP_S)
        settled = None
        for step in range(steps, -1, -1):
            start = step * STEP_S
            if abs(self.rate(start, start + 1) / limit - 1) > TOLERANCE:
                break
            settled = start
        return settled
