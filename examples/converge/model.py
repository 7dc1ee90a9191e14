"""A model of precopy live migration: the cost of each remedy on a recorded trace of dirty rates.

Round i copies the remaining r(i) MB at bandwidth B, which takes t(i) = r(i) / B. Meanwhile the
guest, slowed down or not, dirties the memory that the next round copies:

    r(0) = RAM      r(i+1) = min(RAM, integral of the vCPUs' rates over t(i))

The migration ends as soon as r(i) <= B * G, where G is the allowed downtime: the guest is stopped
while the rest is copied, for r(i) / B. At a constant rate R, r(i) = RAM * q^i with q = R / B: it
converges if and only if q < 1, in ceil(log(B * G / RAM) / log(q)) rounds. There are three remedies:
a smaller R of the vCPUs that dirty memory (dirty limit), less time for every vCPU (auto-converge),
and a larger G.

A vCPU that dirties d MB/s, and D MB/s when not slowed down, gets d / D of its time. The guest time
lost, in s, is the mean over all vCPUs of the integral of 1 - d / D, plus the downtime.

Simplifications: a page dirtied twice in a round counts twice (up to RAM). Zero pages, compression
and the cost of copying are ignored. A guest that was slowed down does not catch up later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

GIVE_UP_S = 600.0


@dataclass(frozen=True)
class Trace:
    """The dirty rate of each vCPU in each interval; after its end the trace repeats."""

    interval: float  # s
    ram: float  # MB
    rates: Sequence[Sequence[float]]  # MB/s: of each interval, of each vCPU


@dataclass
class Remedy:
    """No remedy, and the base class of the others."""

    downtime: float  # s; the downtime allowed now

    def slowed(self, rate: float) -> float:
        """Return the dirty rate, in MB/s, of a vCPU that would dirty `rate` MB/s unlimited."""
        return rate

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Adapt after a round that copied and dirtied so many MB in `seconds`."""


@dataclass
class AutoConverge(Remedy):
    """QEMU's auto-converge: throttle after every second round that dirties over half of its MB.

    Each vCPU first loses 20 % of its time, then 10 % more each time, up to 99 %.
    """

    throttle: float = 0.0
    seen: int = 0
    since: float = 0.0  # s since the last check; at most one check a second

    def slowed(self, rate: float) -> float:
        """Take the same share from all vCPUs, also from vCPUs that dirty nothing."""
        return rate * (1 - self.throttle)

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Throttle more after every second round that dirtied too much."""
        self.since += seconds
        if self.since < 1:
            return
        self.since = 0.0
        self.seen += dirtied > copied / 2
        if self.seen == 2:
            self.seen = 0
            self.throttle = min(0.99, self.throttle + 0.1) if self.throttle else 0.2


@dataclass
class DirtyLimit(Remedy):
    """A limit of `limit` MB/s for each vCPU (None: no limit), halved if rounds do not shrink."""

    limit: int | None = None

    def slowed(self, rate: float) -> float:
        """Slow down only vCPUs above the limit."""
        return rate if self.limit is None else min(rate, self.limit)

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Halve the limit after a round that left more than 90 % of its MB."""
        if dirtied > copied * 0.9:
            rate = dirtied / seconds
            self.limit = max(1, int(min(rate, self.limit or rate) / 2))


@dataclass
class DowntimeRamp(Remedy):
    """An allowed downtime that doubles with each round, up to `most` seconds."""

    most: float = 5.0

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Double the allowed downtime."""
        self.downtime = min(self.most, self.downtime * 2)


@dataclass
class Outcome:
    """The course of a migration; `remaining` has the time and the MB at the start of each round."""

    remaining: list[tuple[float, float]] = field(default_factory=list)
    converged: bool = False
    seconds: float = 0.0  # total, with the downtime
    downtime: float = 0.0  # s
    lost: float = 0.0  # s of guest time, with the downtime


def level(rates: Sequence[float], total: float) -> int | None:
    """Return the limit L of each vCPU such that sum(min(rate, L)) = total, rounded down to MB/s.

    vCPUs that dirty little are not slowed down; the others share the rest equally. The result is
    None if all rates together are within `total`, and at least 1, the lowest limit that QEMU and
    this server accept.
    """
    left = total
    for index, rate in enumerate(sorted(rates)):
        fair = left / (len(rates) - index)
        if rate > fair:
            return max(1, int(fair))
        left -= rate
    return None


def dirtied(trace: Trace, start: float, end: float, remedy: Remedy) -> tuple[float, float]:
    """Return the MB dirtied from `start` to `end` (s), at most RAM, and the guest time lost (s)."""
    mb = lost = 0.0
    index = int(start / trace.interval)
    while start < end:
        until = min(end, (index + 1) * trace.interval)
        rates = trace.rates[index % len(trace.rates)]
        for rate in rates:
            slowed = remedy.slowed(rate)
            mb += slowed * (until - start)
            lost += (1 - slowed / rate if rate else 0.0) * (until - start) / len(rates)
        start, index = until, index + 1
    return min(mb, trace.ram), lost


def migrate(trace: Trace, bandwidth: float, remedy: Remedy) -> Outcome:
    """Replay a migration at `bandwidth` MB/s; give up after ten minutes."""
    outcome, remaining = Outcome(), trace.ram
    while outcome.seconds < GIVE_UP_S:
        outcome.remaining.append((outcome.seconds, remaining))
        seconds = remaining / bandwidth
        if remaining <= bandwidth * remedy.downtime:
            outcome.converged = True
            outcome.downtime = seconds
            outcome.seconds += seconds
            outcome.lost += seconds
            break
        more, lost = dirtied(trace, outcome.seconds, outcome.seconds + seconds, remedy)
        remedy.step(remaining, more, seconds)
        outcome.seconds += seconds
        outcome.lost += lost
        remaining = more
    return outcome
