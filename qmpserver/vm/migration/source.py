"""The outgoing side: rounds over the dirty pages while the guest runs, then the switchover.

The rules that keep a guest from running twice or never are in README.md.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from qmpserver.migration.info import PAGE, UNKNOWN_DOWNTIME, Figures
from qmpserver.vm.accel.stream import Sender
from qmpserver.vm.migration import wire
from qmpserver.vm.migration.channels import Channel, open_channel
from qmpserver.vm.migration.description import describe
from qmpserver.vm.migration.wire import StreamError
from qmpserver.vm.trace.events import EVENTS, record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qmpserver.migration.address import Address
    from qmpserver.migration.capabilities import Capabilities
    from qmpserver.migration.parameters import Parameters
    from qmpserver.migration.status import Status
    from qmpserver.vm.dirty.worker import Worker
    from qmpserver.vm.machine.runstate import RunState
    from qmpserver.vm.migration.movable import Movable

LAST_WORDS_S = 1.0
MAX_HELLO = 4096  # bytes
ALIGNMENT = 2 << 20  # of RAM in a file


class Source:
    """One outgoing migration. Belongs to the event loop's thread.

    Args:
        machine: The machine whose guest moves.
        capabilities: Read at the start.
        parameters: Read all the time: bandwidth and downtime may change under way.
        figures: Updated as it goes.
        worker: Calls that block run there.
        enter: Called with each new status.
        emit_pass: Called with the number of each round.

    Attributes:
        committed: The destination was told to run the guest: it must not run here again.
    """

    def __init__(
        self,
        machine: Movable,
        capabilities: Capabilities,
        parameters: Parameters,
        figures: Figures,
        worker: Worker,
        enter: Callable[[Status], None],
        emit_pass: Callable[[int], None],
    ) -> None:
        self.committed = False
        self._machine = machine
        self._capabilities = capabilities
        self._parameters = parameters
        self._figures = figures
        self._worker = worker
        self._enter = enter
        self._emit_pass = emit_pass
        self._channels: list[Channel] = []  # the main one first
        self._sender: Sender | None = None
        self._mapped: int | None = None  # where RAM begins in a file with `mapped-ram`
        self._answer: asyncio.Task[dict[str, Any]] | None = None
        self._bandwidth = 0.0  # bytes/s, in this round
        self._round = 0, 0.0  # the bytes sent and the time when it began
        self._continued = asyncio.Event()
        self._before: RunState | None = None  # the run state before the switchover
        self._started = self._harvested_at = self._stopped_at = 0.0

    def continue_(self) -> None:
        """Go on after the pause before the switchover."""
        self._continued.set()

    def set_bandwidth(self) -> None:
        """Apply a changed `max-bandwidth`, also in the middle of a round."""
        if self._sender is not None and self._before is None:
            self._sender.set_rate(self._parameters["max-bandwidth"])

    async def run(self, address: Address, take_fd: Callable[[str], int]) -> None:
        """Move the guest. If it raises and `committed` is not set, the guest runs on here.

        Raises:
            OSError, StreamError, DeviceError, CommandError: It failed; the text says why.
            CancelledError: It was cancelled.
        """
        tracking = self._machine.tracking
        try:
            self._started = time.monotonic()
            sender = self._sender = await self._set_up(address, take_fd)
            sender.set_rate(self._parameters["max-bandwidth"])
            self._figures.setup_time = round((time.monotonic() - self._started) * 1000)
            tracking.acquire(self)
            await tracking.wait()
            self._harvested_at = time.monotonic()
            await self._worker.run(sender.add_data)
            self._enter("active")
            self._count_round()
            await self._copy(sender)
            await self._switch_over(sender)
        except BaseException:
            if self._before is not None:
                self._machine.leave_finish_migrate(
                    "postmigrate" if self.committed else self._before
                )
            raise
        finally:
            tracking.release(self)
            await asyncio.shield(self._release())

    async def _set_up(self, address: Address, take_fd: Callable[[str], int]) -> Sender:
        """Open the channels and agree with the destination."""
        main = await open_channel(address, take_fd)
        self._channels.append(main)
        ram = self._machine.ram
        extra = self._parameters["multifd-channels"] if self._capabilities["multifd"] else 0
        if self._capabilities["mapped-ram"]:
            self._mapped = -(-(main.position + MAX_HELLO) // ALIGNMENT) * ALIGNMENT
            await main.send("hello", **describe(self._machine), mapped=self._mapped)
            return Sender(ram, [main.fd] * max(extra, 1), mapped=self._mapped)
        cookie = os.urandom(16).hex()
        await main.send("hello", **describe(self._machine), channels=extra, cookie=cookie)
        if main.two_way:
            wire.expect(await main.receive(), "welcome")
            self._answer = asyncio.ensure_future(main.receive())
        for number in range(extra):
            channel = await open_channel(address, take_fd)
            self._channels.append(channel)
            await channel.send("hello", channel=number, cookie=cookie)
        carriers = self._channels[1:] or self._channels
        return Sender(ram, [carrier.fd for carrier in carriers])

    async def _copy(self, sender: Sender) -> None:
        """Send rounds until the rest can be sent within the downtime limit."""
        while True:
            await self._send_round(sender)
            await self._harvest(sender)
            self._count_round()
            if self._expected_downtime_ms(sender) <= self._parameters["downtime-limit"]:
                return

    async def _switch_over(self, sender: Sender) -> None:
        main = self._channels[0]
        self._stopped_at = time.monotonic()
        stopping = asyncio.ensure_future(self._machine.stop_to_migrate())
        try:
            await asyncio.shield(stopping)
        finally:
            self._before = await stopping  # also if it was cancelled: the guest is to run again
        if self._capabilities["pause-before-switchover"]:
            self._enter("pre-switchover")
            await self._unless_answered(self._continued.wait())
        self._enter("device")
        async with self._machine.changing:  # no reset between the state and the last pages
            state = await self._worker.run(self._machine.accel.save_state)
            await self._harvest(sender)  # after the state: reading it can write to RAM
            sender.set_rate(0)
            await self._send_round(sender, last=True)
            if self._mapped is not None:
                main.seek(self._mapped + self._machine.ram.size)
            limits = self._machine.accel.engine.limits()
            await main.send("state", state=state, limits=limits, run_state=self._before)
            if main.two_way:
                wire.expect(await self._next_answer(), "ready")
            self.committed = True
            await main.send("go")
            if main.two_way:
                wire.expect(await self._next_answer(), "running")
            await main.finish()
            self._figures.downtime = round((time.monotonic() - self._stopped_at) * 1000)
            self._machine.leave_finish_migrate("postmigrate")
            self._bandwidth = sender.counters().bytes / (time.monotonic() - self._started)

    async def _send_round(self, sender: Sender, *, last: bool = False) -> None:
        """Send all pages that are pending; measure the bandwidth."""
        self._round = sender.counters().bytes, time.monotonic()
        loop, moved = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sender.fileno(), moved.set)
        try:
            sender.begin_pass(sync=last)
            while sender.busy:
                await self._unless_answered(moved.wait())
                moved.clear()
                sender.acknowledge()
                error = sender.error()
                if error is not None:
                    await self._raise_answer()
                    raise StreamError(error)
        finally:
            loop.remove_reader(sender.fileno())
        self._measure(sender)

    def _measure(self, sender: Sender) -> None:
        """Measure the bandwidth of this round; not of the last one, which has no limit."""
        before, started = self._round
        sent, seconds = sender.counters().bytes - before, time.monotonic() - started
        if sent and seconds and self._before is None:
            self._bandwidth = sent / seconds

    async def _unless_answered(self, event: Coroutine[Any, Any, Any]) -> None:
        """Wait for an event, but not when the destination reports an error or is gone."""
        waiting = asyncio.ensure_future(event)
        try:
            answers = [] if self._answer is None else [self._answer]
            await asyncio.wait([waiting, *answers], return_when=asyncio.FIRST_COMPLETED)
            if self._answer is not None and self._answer.done():
                wire.expect(self._answer.result(), "nothing yet")
        finally:
            waiting.cancel()

    async def _raise_answer(self) -> None:
        """Raise the destination's own error, if it sends one: it tells more than a broken pipe."""
        if self._answer is not None:
            await asyncio.wait([self._answer], timeout=LAST_WORDS_S)
            if self._answer.done():
                wire.expect(self._answer.result(), "nothing yet")

    async def _next_answer(self) -> dict[str, Any]:
        assert self._answer is not None
        answer = await self._answer
        self._answer = asyncio.ensure_future(self._channels[0].receive())
        return answer

    async def _harvest(self, sender: Sender) -> None:
        """Add the pages that the guest has dirtied to the pending ones."""
        before, since = sender.counters().pending, self._harvested_at
        for bitmap in await self._worker.run(self._machine.tracking.take):
            sender.add(bitmap)
        self._harvested_at = time.monotonic()
        dirtied = sender.counters().pending - before
        record(EVENTS["migration_bitmap_sync_end"], dirtied)
        self._figures.dirty_pages_rate = round(dirtied / max(self._harvested_at - since, 0.001))

    def _count_round(self) -> None:
        """Count a new set of dirty pages, and tell clients."""
        self._figures.dirty_sync_count += 1
        self._emit_pass(self._figures.dirty_sync_count)
        self.count()

    def count(self) -> None:
        """Bring the figures up to date."""
        if self._sender is None:
            return
        self._measure(self._sender)
        counters, figures = self._sender.counters(), self._figures
        figures.transferred = counters.bytes
        figures.remaining = counters.pending * PAGE
        figures.normal = counters.pages
        figures.duplicate = counters.zero_pages
        figures.mbps = self._bandwidth * 8 / 1e6
        figures.pages_per_second = round(self._bandwidth / PAGE)
        if len(self._channels) > 1:
            figures.multifd_bytes = counters.bytes
        if self._before is None:
            figures.precopy_bytes = counters.bytes
            figures.expected_downtime = self._expected_downtime_ms(self._sender)
        else:
            figures.downtime_bytes = counters.bytes - figures.precopy_bytes

    def _expected_downtime_ms(self, sender: Sender) -> int:
        """Return how long it takes to send what is pending."""
        bandwidth = self._parameters["avail-switchover-bandwidth"] or self._bandwidth
        pending = sender.counters().pending * PAGE
        return round(pending / bandwidth * 1000) if bandwidth else UNKNOWN_DOWNTIME

    async def _release(self) -> None:
        self.count()
        if self._answer is not None:
            self._answer.cancel()
            await asyncio.wait([self._answer])
        if self._sender is not None:
            sender, self._sender = self._sender, None  # commands come while it is being closed
            sender.stop()
            await self._worker.run(sender.close)
        for channel in self._channels:
            channel.close()
