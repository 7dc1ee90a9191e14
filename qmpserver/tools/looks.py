"""The figures that policies are told, estimated from a source's answers. No I/O.

A source that is asked from outside tells exactly what remains only when it has just synchronized
its dirty bitmap; until the next time `remaining` falls only. In between, the bytes that the guest
dirties are estimated from the rates of its vCPUs. A synchronization also empties the dirty rings,
and QEMU slows a vCPU only when its ring is full: until then it runs free, whatever its limit is.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from qmpserver.migration.policies.policy import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.tools.figures import Figures

SAMPLES = 8  # looks over which the bandwidth is measured: QEMU sends in bursts of 100 ms
RING = 4096 * 4096  # bytes of a ring of the usual size
SKIPPED = 1.5  # times the bytes that were sent: if more is gone from the rest, it was zero pages
SATURATED = 0.8  # of the bytes that rates promised: fewer were dirty, so many were dirtied twice


class Looks:
    """Makes a `Look` of each answer.

    Args:
        total_time: The promised total, in seconds; 0: nothing is promised.
        downtime_limit: The longest pause that is allowed, in seconds.
        bandwidth: The configured one, in bytes/s; 0: unlimited.
        switchover_bandwidth: That of the pause, if it is known; 0 otherwise.
    """

    def __init__(
        self,
        *,
        total_time: float,
        downtime_limit: float,
        bandwidth: float,
        switchover_bandwidth: float = 0.0,
    ) -> None:
        self._total_time = total_time
        self._downtime_limit = downtime_limit
        self._configured = bandwidth
        self._switchover_bandwidth = switchover_bandwidth
        self._sent: deque[tuple[int, float]] = deque(maxlen=SAMPLES)  # bytes, seconds
        self._last: Figures | None = None
        self._added = 0
        self._since = 0.0  # seconds since the last synchronization
        self._dirtied = 0.0  # bytes since then, by the rates
        self._most = math.inf  # bytes that the guest seems to write to over and over

    def take(
        self,
        figures: Figures,
        rates: Sequence[float],
        limits: Sequence[int],
        free: Sequence[float] = (),
    ) -> Look | None:
        """Return the look at figures of an active migration; None if they do not suffice yet.

        Args:
            figures: The answer to `query-migrate`.
            rates: How fast each vCPU dirties memory, in bytes/s.
            limits: The limit of each vCPU, in MB/s; 0: none.
            free: How fast each vCPU is until its ring is full; empty: its limit holds at once.
        """
        last, self._last = self._last, figures
        if last is not None:
            self._advance(last, figures, sum(rates))
        elif figures.rounds == 1:  # the first synchronization was at the start
            self._since = figures.seconds
            self._dirtied = figures.seconds * sum(rates)
        sizes, times = zip(*self._sent, strict=True) if self._sent else ((), ())
        if len(self._sent) == SAMPLES or (self._sent and not self._configured):
            bandwidth = sum(sizes) / sum(times)
        else:
            bandwidth = self._configured
        if not bandwidth or not figures.total:
            return None
        rings = sum(min(rate * self._since, RING) for rate in free)
        return Look(
            time=figures.seconds,
            pending=figures.remaining,
            unharvested=round(min(max(self._dirtied, rings), self._most, figures.total)),
            added=self._added,
            sent=figures.sent,
            rounds=figures.rounds,
            bandwidth=bandwidth,
            rates=tuple(rates),
            limits=tuple(limits),
            downtime_limit=self._downtime_limit,
            total_time=self._total_time,
            switchover_bandwidth=self._switchover_bandwidth,
        )

    def _advance(self, last: Figures, figures: Figures, rate: float) -> None:
        """Take up the changes since the last answer."""
        sent = figures.sent - last.sent
        gone = last.remaining - figures.remaining
        seconds = figures.seconds - last.seconds
        if figures.rounds == last.rounds:
            self._since += seconds
            self._dirtied += rate * seconds
            if sent and gone <= SKIPPED * sent:
                self._sent.append((sent, seconds))
            return
        added = max(0, sent - gone)
        promised = self._dirtied + rate * seconds / 2  # it was at some moment between the answers
        self._most = added if added < SATURATED * promised else math.inf
        self._added += added
        self._since = seconds / 2
        self._dirtied = rate * seconds / 2
