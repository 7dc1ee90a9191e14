"""Precopy live migration, replayed on a recorded trace of dirty rates: what each remedy costs.

Round i copies the remaining r(i) MB at bandwidth B, which takes t(i) = r(i) / B. Meanwhile the
guest, slowed down or not, dirties what the next round has to copy:

    r(0) = RAM      r(i+1) = min(RAM, integral of the vCPUs' rates over t(i))

It ends as soon as r(i) <= B * G, G being the downtime allowed: the guest is stopped while the
rest is copied, for r(i) / B. At a constant rate R, r(i) = RAM * q^i with q = R / B: it converges
if and only if q < 1, in ceil(log(B * G / RAM) / log(q)) rounds. So there are three remedies: less
R from the vCPUs that dirty (dirty limit), less time for every vCPU (auto-converge), a larger G.

A vCPU that dirties d of the D MB/s that it could have dirtied got d / D of its time. Guest time
lost, in s, is the mean over all vCPUs of the integral of 1 - d / D, and the downtime.

Left out: pages dirtied twice in a round count twice (up to RAM), zero pages and compression,
what copying itself costs, and what the guest would do later since it was slowed down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

GIVE_UP_S = 600.0


@dataclass(frozen=True)
class Trace:
    """What each vCPU dirtied in each interval; it starts again at its end."""

    interval: float  # s
    ram: float  # MB
    rates: Sequence[Sequence[float]]  # MB/s: of each interval, of each vCPU


@dataclass
class Remedy:
    """None at all, and what others do differently."""

    downtime: float  # s, that are allowed now

    def slowed(self, rate: float) -> float:
        """Return the MB/s that a vCPU dirties which would dirty `rate`."""
        return rate

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Look at the round that has ended; MB, s."""


@dataclass
class AutoConverge(Remedy):
    """QEMU's: the second round in which more than half as much is dirtied as copied throttles.

    Each vCPU then loses 20 % of its time, and 10 % more each time it happens again, up to 99 %.
    """

    throttle: float = 0.0
    seen: int = 0
    since: float = 0.0  # s since it last looked; it looks once a second at most

    def slowed(self, rate: float) -> float:
        """Take the same part from all, from those that dirty nothing too."""
        return rate * (1 - self.throttle)

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Throttle more where it goes on."""
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
    """No vCPU dirties more than `limit` MB/s (None: as it likes), halved where that is too much."""

    limit: int | None = None

    def slowed(self, rate: float) -> float:
        """Take only from those above the limit."""
        return rate if self.limit is None else min(rate, self.limit)

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Halve the limit where a round has not got a tenth of the way."""
        if dirtied > copied * 0.9:
            rate = dirtied / seconds
            self.limit = max(1, int(min(rate, self.limit or rate) / 2))


@dataclass
class DowntimeRamp(Remedy):
    """The downtime allowed doubles with each round, up to `most` seconds."""

    most: float = 5.0

    def step(self, copied: float, dirtied: float, seconds: float) -> None:
        """Allow more."""
        self.downtime = min(self.most, self.downtime * 2)


@dataclass
class Outcome:
    """How a migration went; `remaining` has the time and the MB at the start of each round."""

    remaining: list[tuple[float, float]] = field(default_factory=list)
    converged: bool = False
    seconds: float = 0.0  # in all, downtime included
    downtime: float = 0.0  # s
    lost: float = 0.0  # s of guest time, downtime included


def level(rates: Sequence[float], total: float) -> int | None:
    """Return the limit L for every vCPU with sum(min(rate, L)) = total, down to whole MB/s.

    Who dirties little is not touched, the others get the same; None: they keep to `total` anyway.
    QEMU and this server take no limit below 1.
    """
    left = total
    for index, rate in enumerate(sorted(rates)):
        fair = left / (len(rates) - index)
        if rate > fair:
            return max(1, int(fair))
        left -= rate
    return None


def dirtied(trace: Trace, start: float, end: float, remedy: Remedy) -> tuple[float, float]:
    """Return the MB dirtied from `start` to `end` (s, at most RAM), and the guest time lost (s)."""
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
    """Replay a migration at `bandwidth` MB/s; it gives up after ten minutes."""
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
