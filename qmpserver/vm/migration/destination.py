"""The incoming side: receives RAM and state into a machine whose guest has not run yet."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, get_args

from qmpserver.migration.address import TcpAddress, UnixAddress
from qmpserver.migration.channels import Channel, Listener, accept_one
from qmpserver.migration.wire import GONE, MAX_HELLO, StreamError, expect, reason
from qmpserver.vm.accel.stream import ChannelState, Receiver
from qmpserver.vm.machine.runstate import RunState
from qmpserver.vm.migration.answers import wait_for_either
from qmpserver.vm.migration.description import check
from qmpserver.vm.migration.ending import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.migration.address import Address
    from qmpserver.migration.status import Status
    from qmpserver.monitor.fds import Passed
    from qmpserver.vm.dirty.worker import Worker
    from qmpserver.vm.migration.movable import Movable

MAX_CHANNELS = 255


class Destination:
    """One incoming migration. Belongs to the event loop's thread.

    Args:
        machine: A machine in inmigrate.
        worker: Calls that block run there.
        enter: Called with each new status.
    """

    def __init__(
        self,
        machine: Movable,
        worker: Worker,
        enter: Callable[[Status], None],
    ) -> None:
        self._machine = machine
        self._worker = worker
        self._enter = enter
        self._address: Address | None = None
        self._listener: Listener | None = None
        self._addresses: list[dict[str, Any]] = []
        self._channels: list[Channel] = []  # the main one first
        self._receiver: Receiver | None = None

    async def listen(self, address: Address) -> None:
        """Listen on `address`, if it is one of a socket; afterwards a source can connect.

        Raises:
            DeviceError: It is not possible.
        """
        self._address = address
        if isinstance(address, UnixAddress | TcpAddress):
            self._listener = await Listener.listen(address)
            self._addresses = self._listener.addresses()

    def addresses(self) -> list[dict[str, Any]]:
        """Return the addresses that it has listened on, as `query-migrate` shows them."""
        return self._addresses

    async def run(self, passed: Passed) -> None:
        """Receive a guest and have it run. If it raises, the guest does not run here.

        Raises:
            OSError, StreamError, DeviceError, CommandError: It failed; the text says why.
        """
        try:
            main = await self._accept(passed)
            self._channels.append(main)
            try:
                await self._receive(main)
            except (OSError, StreamError, ValueError) as error:
                await self._refuse(main, reason(error))
                raise
        finally:
            await to_the_end(self._release())

    async def _accept(self, passed: Passed) -> Channel:
        if self._listener is not None:
            return await self._listener.accept()
        assert self._address is not None
        return await accept_one(self._address, passed)

    async def _receive(self, main: Channel) -> None:
        hello = expect(await main.receive(most=MAX_HELLO), "hello")
        check(hello, self._machine)
        self._enter("active")
        await self._worker.run(self._machine.ram.clear)  # pages that are not sent are zero
        if main.two_way:
            await main.send("welcome")
        if "mapped" in hello:
            await self._load_ram(main, hello["mapped"])
            state = expect(await main.receive(), "state")
        else:
            async with main.unless_hung_up():
                await self._accept_others(hello)
            state = expect(await self._receive_ram(main), "state")
        await self._load(state)
        if main.two_way:
            await main.send("ready")
        expect(await main.receive(), "go")
        self._machine.leave_inmigrate(state["run_state"])
        if main.two_way:
            with contextlib.suppress(OSError, StreamError):  # the guest runs, whoever listens
                await main.send("running")

    async def _accept_others(self, hello: dict[str, Any]) -> None:
        """Accept the data channels; strangers are sent away."""
        count, cookie = hello.get("channels"), hello.get("cookie")
        if not isinstance(count, int) or not 0 <= count <= MAX_CHANNELS:
            raise StreamError(f"{count!r} data channels; 0 to {MAX_CHANNELS} are allowed")
        if count and self._listener is None:
            raise StreamError("data channels need a socket that listens: use unix: or tcp:")
        found: dict[int, Channel] = {}
        try:
            while len(found) < count:
                assert self._listener is not None
                channel = await self._listener.accept()
                try:
                    number = await _introduced(channel, cookie)
                    if number is not None and number < count:
                        found.setdefault(number, channel)
                finally:
                    if channel not in found.values():
                        channel.close()
        finally:
            self._channels += [found[number] for number in sorted(found)]
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _load_ram(self, main: Channel, base: object) -> None:
        """Load RAM that has its place in a file, from byte `base` on."""
        ram = self._machine.ram
        if not isinstance(base, int) or base < 0:
            raise StreamError(f"RAM begins at byte {base!r} of the file")
        receiver = await self._worker.run(self._make_receiver, [main.fd], base)
        await self._receive_pages(receiver, 1)
        main.seek(base + ram.size)

    async def _receive_ram(self, main: Channel) -> dict[str, Any]:
        """Receive RAM on all channels; return the message that follows it on the main one."""
        carriers = self._channels[1:]
        fds = [channel.fd for channel in carriers or [main]]
        receiver = await self._worker.run(self._make_receiver, fds, None)
        if not carriers:
            await self._receive_pages(receiver, 1)
            return await main.receive()
        message = asyncio.ensure_future(main.receive())  # it may come before the last page
        try:
            await self._receive_pages(receiver, len(fds), message)
            return await message
        finally:
            message.cancel()
            await asyncio.wait([message])

    def _make_receiver(self, fds: list[int], mapped: int | None) -> Receiver:
        """Runs on the worker: keeps the receiver even if nobody waits for it any more."""
        self._receiver = Receiver(self._machine.ram, fds, mapped=mapped)
        return self._receiver

    def _close_receiver(self) -> None:
        """Runs on the worker, after `_make_receiver` if that was called."""
        if self._receiver is not None:
            self._receiver.close()

    async def _receive_pages(
        self, receiver: Receiver, channels: int, message: asyncio.Task[Any] | None = None
    ) -> None:
        """Receive until all channels are at the end of RAM; `message` is of the main channel."""
        loop, moved = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(receiver.fileno(), moved.set)
        try:
            for number in range(channels):
                receiver.start(number)
            while not _all_pages_came(receiver):
                if message is not None and message.done():
                    message.result()  # raises if the source is gone
                    message = None
                await wait_for_either(moved.wait(), message)
                moved.clear()
                receiver.acknowledge()
        finally:
            loop.remove_reader(receiver.fileno())

    async def _load(self, message: dict[str, Any]) -> None:
        """Check and load the state of the machine."""
        limits, run_state = message.get("limits"), message.get("run_state")
        if run_state not in get_args(RunState):
            raise StreamError(f"the source's run state is {run_state!r}")
        if not isinstance(limits, list) or len(limits) != self._machine.accel.engine.vcpus:
            raise StreamError("the dirty limits are not one for each vCPU")
        if any(not isinstance(limit, int) or limit < 0 for limit in limits):
            raise StreamError(f"the dirty limits are {limits!r}")
        await self._worker.run(self._machine.accel.load_state, message.get("state"))
        for index, limit in enumerate(limits):
            if limit:
                self._machine.dirty_limit.set(limit, index)

    async def _refuse(self, main: Channel, why: str) -> None:
        """Tell the source why, if it still listens."""
        if main.two_way:
            with contextlib.suppress(OSError, StreamError):
                await main.send("error", desc=why)

    async def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._worker.run(self._close_receiver)
        for channel in self._channels:
            channel.close()


async def _introduced(channel: Channel, cookie: object) -> int | None:
    """Return the number of a data channel that knows the cookie; None for a stranger."""
    try:
        hello = expect(await channel.receive(most=MAX_HELLO), "hello")
    except (OSError, StreamError):
        return None
    number = hello.get("channel")
    known = isinstance(number, int) and number >= 0 and hello.get("cookie") == cookie
    return number if known else None


def _all_pages_came(receiver: Receiver) -> bool:
    """Return whether each channel has ended with SYNC.

    Raises:
        StreamError: A channel has ended otherwise.
    """
    states = receiver.states()
    for number, state in enumerate(states):
        if state == ChannelState.FAILED:
            raise StreamError(receiver.error() or f"channel {number} failed")
        if state == ChannelState.EOF:
            raise StreamError(GONE)
        if state == ChannelState.CONTROL:
            raise StreamError("a control frame among the pages")
    return all(state == ChannelState.SYNC for state in states)
