"""The rounds of an outgoing migration: RAM is sent while a policy watches the guest and the link.

What a round costs and when the guest is stopped is decided in `qmpserver/migration/policies/`; the
pages themselves are moved by native threads.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from qmpserver.migration.extensions import TOTAL_TIME
from qmpserver.migration.info import PAGE, UNKNOWN_DOWNTIME
from qmpserver.migration.policies.policy import Look
from qmpserver.migration.wire import StreamError
from qmpserver.vm.trace.events import EVENTS, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpserver.migration.info import Figures
    from qmpserver.migration.parameters import Parameters
    from qmpserver.migration.policies.policy import Policy
    from qmpserver.vm.accel.stream import Sender
    from qmpserver.vm.dirty.worker import Worker
    from qmpserver.vm.migration.answers import Answers
    from qmpserver.vm.migration.movable import Movable

LOOK_S = 0.02  # between two looks of the policy
BANDWIDTH_S = 0.1  # the time over which the bandwidth is measured
OVERHEAD_S = 0.006  # of the pause: stopping the guest, its state, the destination's answers


class Rounds:
    """The live phase and the last round. Belongs to the event loop's thread.

    Args:
        machine: The machine whose guest moves.
        sender: Sends RAM.
        answers: Interrupts every wait if the destination fails.
        worker: Calls that block run there.
        parameters: Read all the time.
        figures: Updated as it goes.
        emit_pass: Called with the number of each round.
        emit_late: Called with the expected seconds when the promise cannot be kept any more;
            infinite if no end is in sight.
        started: The time when the migration began, on `time.monotonic`.
    """

    def __init__(
        self,
        machine: Movable,
        sender: Sender,
        answers: Answers,
        worker: Worker,
        parameters: Parameters,
        figures: Figures,
        emit_pass: Callable[[int], None],
        emit_late: Callable[[float], None],
        started: float,
    ) -> None:
        self._machine = machine
        self._sender = sender
        self._answers = answers
        self._worker = worker
        self._parameters = parameters
        self._figures = figures
        self._emit_pass = emit_pass
        self._emit_late = emit_late
        self._started = started
        self._moved = asyncio.Event()  # the sender has come to the end of a pass, or failed
        self._added = 0  # bytes that harvests have added to the pending ones
        self._harvested_at = 0.0
        self._just_harvested = False  # and not waited for anything since
        self._measured = 0, time.monotonic()  # bytes sent, and when, as the bandwidth was measured
        self._bandwidth = 0.0
        self._last = False
        self._limiting = False
        self._throttled: list[tuple[int, int]] = []  # ns and pages of each vCPU before its limit
        self._own_limits: list[int] = []  # of clients, while the policy limits vCPUs
        asyncio.get_running_loop().add_reader(sender.fileno(), self._moved.set)

    async def begin(self) -> None:
        """Make all pages that hold data pending. Dirty pages must be logged.

        From now on the engine leaves each page that a harvest finds writable until it is sent.
        """
        take = self._machine.tracking.take
        await self._worker.run(take)  # dirtied before: pending now anyway
        await self._worker.run(self._machine.accel.engine.defer_protection, True)
        await self._worker.run(self._sender.add_data)
        for bitmap in await self._worker.run(take):  # dirtied meanwhile: hot ones, which go last
            self._sender.add(bitmap)
        self._harvested_at = time.monotonic()
        self._figures.dirty_sync_count = 1  # QEMU's events begin with the second pass

    async def converge(self, policy: Policy) -> None:
        """Send rounds until the policy has the guest stopped.

        Raises:
            OSError, StreamError: A channel failed, or the destination did.
        """
        while True:
            decision = policy.decide(self._look())
            expected = decision.expected_downtime * 1000
            self._figures.expected_downtime = round(min(expected, UNKNOWN_DOWNTIME))
            if decision.switch_over and self._knows_dirty:
                return
            if decision.newly_broken:
                self._emit_late(decision.expected_total)
            self._limit(decision.limits)
            self._throttle(decision.throttle)
            if decision.harvest or decision.switch_over:
                await self.harvest()
                self._count_round()
                self._just_harvested = True
                continue
            if not self._sender.busy:
                self._measure(ended=True)
                self._measured = self._sender.counters().bytes, time.monotonic()
                self._sender.begin_pass()
            await self._wait(LOOK_S)

    @property
    def _knows_dirty(self) -> bool:
        """Whether it is known how much is dirty; without rings only a harvest tells."""
        return bool(self._machine.accel.dirty_ring_size) or self._just_harvested

    @property
    def limits_vcpus(self) -> bool:
        """Whether the policy limits a vCPU now."""
        return self._limiting

    @property
    def own_limits(self) -> list[int]:
        """The dirty limits that clients have set, in MB/s; 0 for none."""
        return self._own_limits if self._limiting else self._machine.accel.engine.limits()

    def lift_limits(self) -> None:
        """End the throttle, and leave the vCPUs no other limits than those of clients."""
        self._limit(())
        self._throttle(0)

    def _throttle(self, percentage: int) -> None:
        if percentage != (self._figures.cpu_throttle or 0):
            self._machine.accel.engine.set_cpu_throttle(percentage)
            self._figures.cpu_throttle = percentage or None

    def _limit(self, limits: Sequence[int]) -> None:
        """Limit each vCPU, in MB/s, beside the limits that clients have set; 0: not."""
        if not (self._limiting or any(limits)):
            return
        engine, own_limits = self._machine.accel.engine, self.own_limits
        if not self._limiting:
            vcpus = (engine.vcpu(index) for index in range(engine.vcpus))
            self._throttled = [(one.throttle_time, one.harvested + one.waiting) for one in vcpus]
        self._limiting, self._own_limits = any(limits), own_limits
        in_force = engine.limits()
        for index, own in enumerate(own_limits):
            limit = limits[index] if limits else 0
            wanted = min(limit, own) if limit and own else limit or own
            if wanted != in_force[index]:
                self._machine.dirty_limit.set(wanted, index)

    async def send_rest(self) -> None:
        """Send everything that is pending, and end the stream of RAM.

        As in QEMU, `max-bandwidth` does not hold now, unless a promise was made with it.

        Raises:
            OSError, StreamError: A channel failed, or the destination did.
        """
        self._last = True
        self._sender.guest_stopped()
        if not self._parameters[TOTAL_TIME]:
            self._sender.set_rate(0)
        while self._sender.busy:
            await self._wait()
        self._sender.begin_pass(sync=True)
        while self._sender.busy:
            await self._wait()
        self.count()

    async def harvest(self) -> None:
        """Add the pages that the guest has dirtied to the pending ones."""
        before, since = self._sender.counters().pending, self._harvested_at
        for bitmap in await self._worker.run(self._machine.tracking.take):
            self._sender.add(bitmap)
        self._harvested_at = time.monotonic()
        # Pages that are sent meanwhile make it a little less than it was.
        dirtied = max(0, self._sender.counters().pending - before)
        self._added += dirtied * PAGE
        self._figures.dirty_pages_rate = round(dirtied / max(self._harvested_at - since, 0.001))
        record(EVENTS["migration_bitmap_sync_end"], dirtied)

    def count(self) -> None:
        """Bring the figures up to date."""
        self._measure()
        counters, figures = self._sender.counters(), self._figures
        figures.transferred = counters.bytes
        figures.remaining = counters.pending * PAGE
        figures.normal = counters.pages
        figures.duplicate = counters.zero_pages
        figures.mbps = self._bandwidth * 8 / 1e6
        figures.pages_per_second = round(self._bandwidth / PAGE)
        self._count_throttling()
        if self._last:
            figures.downtime_bytes = counters.bytes - figures.precopy_bytes
        else:
            figures.precopy_bytes = counters.bytes

    def _count_throttling(self) -> None:
        """Count the time that limited vCPUs are held, for each ring that they fill."""
        engine, figures = self._machine.accel.engine, self._figures
        if not self._limiting:
            figures.limit_round = figures.limit_ring_full = None
            return
        held = []
        for index, (throttled, pages) in enumerate(self._throttled):
            vcpu = engine.vcpu(index)
            rings = max((vcpu.harvested + vcpu.waiting - pages) / vcpu.ring_size, 1.0)
            held.append((vcpu.throttle_time - throttled) / 1000 / rings)
        rate = sum(self._machine.tracking.rates.bytes_per_second()) / engine.vcpus
        figures.limit_round = round(max(held))
        figures.limit_ring_full = round(engine.vcpu(0).ring_size * PAGE / max(rate, PAGE) * 1e6)

    def close(self) -> None:
        """Stop watching the sender."""
        asyncio.get_running_loop().remove_reader(self._sender.fileno())

    def _look(self) -> Look:
        self.count()
        parameters = self._parameters
        counters = self._sender.counters()
        deferred = self._machine.accel.engine.defers_protection
        has_rings = bool(self._machine.accel.dirty_ring_size)
        return Look(
            time=time.monotonic() - self._started,
            pending=self._figures.remaining,
            cold=counters.cold * PAGE,
            waiting=counters.waiting * PAGE if deferred else 0,
            unharvested=self._unharvested(),
            added=self._added,
            sent=self._figures.transferred,
            rounds=self._figures.dirty_sync_count,
            bandwidth=self._bandwidth or parameters["max-bandwidth"],
            rates=tuple(self._machine.tracking.rates.bytes_per_second()) if has_rings else (),
            limits=self._slowing(),
            throttle=self._figures.cpu_throttle or 0,
            downtime_limit=parameters["downtime-limit"] / 1000,
            total_time=parameters[TOTAL_TIME] / 1000,
            switchover_bandwidth=parameters["avail-switchover-bandwidth"],
            overhead=OVERHEAD_S,
        )

    def _slowing(self) -> tuple[int, ...]:
        """Return the limit of each vCPU that is none of a client's, in MB/s; 0 for none."""
        in_force = self._machine.accel.engine.limits()
        return tuple(
            0 if limit == own else limit
            for limit, own in zip(in_force, self.own_limits, strict=True)
        )

    def _unharvested(self) -> int:
        """Return the bytes dirtied since the last harvest; at most all of RAM."""
        if self._machine.accel.dirty_ring_size:
            pages = self._machine.accel.engine.dirty_pages()
        elif self._just_harvested:
            pages = 0
        else:  # A guess: as many as before, and at least one, which a harvest is worth.
            since = time.monotonic() - self._harvested_at
            pages = max(1, round(self._figures.dirty_pages_rate * since))
        return min(pages * PAGE, self._machine.ram.size)

    def _count_round(self) -> None:
        """Count a new set of dirty pages, and tell clients."""
        self._figures.dirty_sync_count += 1
        self._emit_pass(self._figures.dirty_sync_count)

    def _measure(self, *, ended: bool = False) -> None:
        """Measure the bandwidth during passes, and when one has `ended`.

        The last round, which has no limit, does not count.
        """
        if self._last or not (self._sender.busy or ended):
            return
        before, since = self._measured
        sent, now = self._sender.counters().bytes, time.monotonic()
        is_short = now - since < (BANDWIDTH_S if not ended else LOOK_S if self._bandwidth else 0)
        if not is_short and sent > before:
            self._bandwidth = (sent - before) / max(now - since, 1e-6)
            self._measured = sent, now

    async def _wait(self, seconds: float | None = None) -> None:
        """Wait for the end of a pass, or for so many seconds.

        Raises:
            StreamError: A channel failed; the text is the destination's, if it said why.
        """
        self._just_harvested = False
        await self._answers.unless(self._moved.wait(), seconds)
        self._moved.clear()
        self._sender.acknowledge()
        error = self._sender.error()
        if error is not None:
            await self._answers.last_words()
            raise StreamError(error)
