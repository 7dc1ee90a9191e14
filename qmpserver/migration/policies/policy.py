"""The interface of convergence policies: the figures that they are told, and their answers.

Units are bytes, seconds and bytes/s; only the limits of vCPUs are in MB/s (2^20 bytes), as in QEMU.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

MB = 1 << 20


class Look(NamedTuple):
    """The figures of a migration at one moment of its live phase.

    Attributes:
        time: Seconds since the migration started.
        pending: Bytes that are known to be dirty and are not sent.
        unharvested: Bytes that became dirty since the last harvest, with the entries that wait in
            the rings. Pages that are pending already are counted here too.
        cold: Bytes of `pending` that no harvest has found dirty, if the sender sends those first; 0
            if it does not.
        waiting: Bytes of `pending` that were found dirty and are not found again until they were
            sent; 0 if they are. Stores to them count in no rate and under no limit.
        added: Bytes that all harvests together have added to `pending`.
        sent: Bytes of pages that were sent; zero pages do not count.
        rounds: QEMU's `dirty-sync-count`: 1 in the first round.
        bandwidth: That of `sent`, over the last 100 ms or so in which there was something to send;
            before the first measurement the configured one; 0 if it is unknown.
        rates: How fast each vCPU dirties memory, over the last 100 to 1000 ms; empty if unknown.
        limits: The limit in force of each vCPU, in MB/s; 0: none, or only that of a client.
        throttle: The percentage of time that is taken from all vCPUs.
        downtime_limit: The longest pause that is allowed.
        total_time: The promised total, with the pause; 0: nothing is promised.
        switchover_bandwidth: The bandwidth during the pause; 0: the same as `bandwidth`.
        overhead: The part of the pause that is not spent on sending RAM.
    """

    time: float
    pending: int
    unharvested: int
    added: int
    sent: int
    rounds: int
    bandwidth: float
    rates: tuple[float, ...]
    limits: tuple[int, ...]
    downtime_limit: float
    throttle: int = 0
    total_time: float = 0.0
    cold: int = 0
    waiting: int = 0
    switchover_bandwidth: float = 0.0
    overhead: float = 0.0

    @property
    def dirty(self) -> int:
        """Bytes that the guest has stored to since the last harvest, or since they were sent."""
        return self.waiting + self.unharvested

    @property
    def remaining(self) -> int:
        """The most that may have to be sent. It is less if dirty pages are pending already."""
        return self.pending + self.unharvested

    def sendable(self, pause: float) -> float:
        """Return the bytes that a pause of so many seconds carries."""
        return (self.switchover_bandwidth or self.bandwidth) * max(0.0, pause - self.overhead)

    def pause(self, rest: float) -> float:
        """Return the seconds of pause that the rest takes; infinite if no bandwidth is known."""
        bandwidth = self.switchover_bandwidth or self.bandwidth
        return self.overhead + rest / bandwidth if bandwidth else math.inf


class Decision(NamedTuple):
    """The answer of a policy to a look.

    Attributes:
        limits: The limit of each vCPU, in MB/s, 0 for none; empty: no vCPU is limited.
        throttle: The percentage of time to take from all vCPUs, 0 to 99.
        harvest: Harvest the rings now, then look again at once.
        switch_over: Stop the guest now and send the rest.
        abort: Give up: the policy expects no acceptable end.
        expected_total: Seconds from the start to the end, with the pause; infinite: no end is in
            sight.
        expected_downtime: Seconds of pause.
        kept: The promise can still be kept, as far as the figures tell; true if there is none.
        newly_broken: At this look the policy has found that the promise cannot be kept any more;
            told once for each `total_time`.
    """

    limits: tuple[int, ...] = ()
    throttle: int = 0
    harvest: bool = False
    switch_over: bool = False
    abort: bool = False
    expected_total: float = math.inf
    expected_downtime: float = math.inf
    kept: bool = True
    newly_broken: bool = False


class Policy(Protocol):
    """Decides about one migration; a new migration needs a new object.

    The caller looks before the first byte is sent, then each 10 to 100 ms, when nothing is pending,
    and after each harvest, and applies the answer. At the end, however it comes, the caller lifts
    limits and throttle.
    """

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look; looks come in the order of time."""
        ...
