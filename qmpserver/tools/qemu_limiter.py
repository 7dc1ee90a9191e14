"""The numbers that make QEMU's limiter of vCPUs hold a rate. No I/O.

QEMU (7.2 and 11.1, by their behaviour) lets a vCPU sleep whenever its dirty ring is full. Once a
second it compares the rate of the second before with the limit, and makes the sleep longer or
shorter by a number of *fills*, a fill being the time in which the fastest vCPU so far fills a ring:

- not at all if the two differ by at most 25 MB/s,
- by a tenth of a fill if they differ by no more than half of the larger one,
- else by `rate / limit - 1` fills longer, or `limit / rate - 1` fills shorter;

up to 99 fills. That hits the limit only if the vCPU ran free before; later it takes minutes. The
state follows from the rate, so `quota` returns the number whose step is the right one.

Nothing wakes a vCPU that sleeps: synchronizing the dirty bitmap and stopping the guest wait for it.
With a ring of 4096 entries a vCPU at 25 MB/s sleeps 0.6 s at a time; `LOWEST` keeps it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FREE = 1 << 20  # MB/s: the limit of a vCPU that is not slowed, but whose rate is to be told
PERIOD = 1.0  # s between two steps
SLACK = 0.1  # s that a step may come later
TOLERANCE = 25  # MB/s
LOWEST = 25  # MB/s: lower limits are not asked for
LINEAR = 0.5  # of the larger of rate and limit
SMALL = 0.1  # fills: the step below that
LONGEST = 99  # fills
LEAST = 1.05  # fills: the least step that is not a small one


class Limiter:
    """Follows the limiter of one source; rates are in MB/s.

    Attributes:
        rates: How fast each vCPU is now: its last rate, and the step that was made since.
        free: The most that each vCPU was seen to reach.
        quotas: The numbers in force, `FREE` at the beginning; the caller keeps them up to date.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        """Begin with the rates of vCPUs that run free."""
        self.rates = list(rates)
        self.quotas = [FREE] * len(rates)
        self._told: list[float] = []
        self._stepped_at = 0.0
        self._fastest = max(rates)
        self.free = list(rates)

    def take(self, now: float, told: Sequence[float]) -> None:
        """Take up the rates that the source tells; they are those of the last whole second."""
        if self._told == list(told) and now - self._stepped_at < PERIOD + SLACK:
            return
        self._told, self._stepped_at = list(told), now
        self._fastest = max(self._fastest, *told)
        for index, rate in enumerate(told):
            self.free[index] = max(self.free[index], rate)
            self.rates[index] = self._after_step(index, rate)

    def _after_step(self, index: int, rate: float) -> float:
        """Return the rate that follows from the step that was made at the end of a second."""
        quota = self.quotas[index]
        difference = quota - rate
        if not rate or abs(difference) <= TOLERANCE:
            return rate
        fills = SMALL
        if abs(difference) > LINEAR * max(quota, rate):
            fills = max(quota, rate) / min(quota, rate) - 1
        time = 1 / rate - (fills if difference > 0 else -fills) / self._fastest
        free = 1 / self.free[index]
        return 1 / min(max(time, free), free + LONGEST / self._fastest)

    def quota(self, index: int, limit: int) -> int:
        """Return the number to set for a vCPU, for a limit in MB/s; 0 is for none.

        The next step takes it from its present rate to the limit. It stays where it is if no step
        would take it nearer.
        """
        rate = self.rates[index]
        if not limit:
            return FREE
        if not rate:
            return max(limit, LOWEST)
        fills = self._fastest * (1 / max(limit, LOWEST) - 1 / rate)
        if abs(fills) < LEAST / 2:
            return max(1, round(rate))
        if fills > 0:
            return max(1, round(rate / (1 + max(fills, LEAST))))
        return min(FREE, round(rate * (1 + max(-fills, LEAST))))
