"""A source whose destination answers anything, at any time, or nothing.

The guest runs in one place: here, unless the destination has said that it is ready. A destination
that does as it should completes the migration; a migration that is stuck can be cancelled; a
failure has one line.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import uvloop

from qmpserver.migration import wire
from qmpserver.migration.address import parse_uri
from qmpserver.vm.migration import answers
from tests.fuzz.destination import PAGE, PAGES, PATH, RAM, SYNC
from tests.fuzz.explore import Case
from tests.fuzz.messages import json_value, spoil
from tests.vm.migration.conftest import NOTHING_PASSED, Side, opened

PATIENCE = 60.0
STEPS = ["welcome", "ready", "running"]
MISDEEDS = ["other", "twice", "spoilt", "junk", "error", "pages", "close", "silent", "reset"]


class Destination:
    """A destination that misbehaves at one step, or not at all.

    Attributes:
        misdeed: How; None if it does as it should.
        was_ready: Whether it has said that it is ready, in a way that could be understood.
    """

    def __init__(self, rng: random.Random, channels: int) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._channels = channels
        self._sockets: list[socket.socket] = []
        self.misdeed = rng.choice(MISDEEDS) if rng.random() < 0.8 else None
        self._step = rng.choice(STEPS)
        self._read_first = rng.random() < 0.7
        self.was_ready = False
        self.inputs = 0
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(PATH)
        self.server.listen()
        self.server.setblocking(False)

    async def run(self) -> None:
        """Accept a source and receive its guest, until it hangs up."""
        try:
            main = await self._accept()
            await self._message(main)
            await self._answer(main, "welcome")
            for _ in range(self._channels):
                await self._message(await self._accept())
            carriers = self._sockets[1:] or [main]
            await asyncio.gather(*map(self._pages, carriers))
            await self._message(main)
            await self._answer(main, "ready")
            await self._message(main)
            await self._answer(main, "running")
            while await self._loop.sock_recv(main, 65536):
                pass
        except (ConnectionError, EOFError):
            pass

    async def _accept(self) -> socket.socket:
        sock, _ = await self._loop.sock_accept(self.server)
        sock.setblocking(False)
        self._sockets.append(sock)
        return sock

    async def _read(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await self._loop.sock_recv(sock, min(size - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return data

    async def _message(self, sock: socket.socket) -> dict[str, Any]:
        self.inputs += 1
        size = wire.payload_size(await self._read(sock, wire.HEADER.size))
        message = wire.decode(await self._read(sock, size))
        if message["type"] == "error":
            raise EOFError
        return message

    async def _pages(self, sock: socket.socket) -> None:
        while True:
            self.inputs += 1
            kind, count, _, _ = wire.HEADER.unpack(await self._read(sock, wire.HEADER.size))
            if kind == SYNC:
                return
            if kind == PAGES:
                await self._read(sock, count * PAGE)

    async def _answer(self, sock: socket.socket, kind: str) -> None:
        rng = self._rng
        self.inputs += 1
        said = wire.encode(kind)
        misdeed = self.misdeed if kind == self._step else None
        self.was_ready = self.was_ready or (kind == "ready" and misdeed != "silent")
        match misdeed:
            case "other":
                said = wire.encode(rng.choice([*STEPS, "state", "go", "hello", ""]))
            case "twice":
                said *= 2
            case "spoilt":
                said = spoil(rng, said)
            case "junk":
                said = rng.randbytes(rng.randrange(100))
            case "error":
                desc = rng.choice(["no", "", json_value(rng), "x" * 5000])
                said = wire.encode("error", **rng.choice([{}, {"desc": desc}]))
            case "pages":
                said = wire.HEADER.pack(PAGES, 1, 0, 0) + bytes(PAGE)
            case "close":
                self._close()
                raise EOFError
            case "reset":
                said = said[: rng.randrange(len(said))]
        if misdeed != "silent":
            await self._loop.sock_sendall(sock, said)
        if misdeed == "reset" or (misdeed == "junk" and not said):
            self._close()
            raise EOFError
        if misdeed == "silent":
            if self._read_first:
                while await self._loop.sock_recv(sock, 65536):
                    pass
            await asyncio.Event().wait()

    def _close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # a pending read delays the end of the descriptor
            one.close()

    def close(self) -> None:
        """Close all."""
        self._close()
        self.server.close()


async def _case(rng: random.Random) -> int:
    side = Side("soft", ram=RAM, vcpus=1, size="1M", rate="50")
    channels = rng.choice([0, 0, 0, 1, 2])
    destination = Destination(rng, channels)
    async with opened(side), asyncio.timeout(PATIENCE):
        if channels:
            side.migration.set_capabilities({"multifd": True})
            side.migration.set_parameters({"multifd-channels": channels})
        answering = asyncio.ensure_future(destination.run())
        side.migration.start(parse_uri(f"unix:{PATH}"), NOTHING_PASSED)
        try:
            if destination.misdeed in ("silent", "spoilt", "junk"):  # it may wait for more
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await side.ended()
                if side.migration.status not in ("completed", "failed"):
                    side.migration.cancel()
                    destination.close()
            status = await side.ended()
            _check(side, destination, status)
            json.dumps(side.migration.info())
            await _check_guest(side)
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            destination.close()
    return destination.inputs


def _check(side: Side, destination: Destination, status: str) -> None:
    error = side.error
    if destination.misdeed is None:
        assert status == "completed", error
    if status == "failed":
        assert "internal error" not in error, error
        assert "\n" not in error, error
    if not destination.was_ready:
        assert side.machine.state == "running", (status, side.machine.state, error)
    assert side.machine.state in ("running", "postmigrate")
    assert status != "completed" or side.machine.state == "postmigrate"


async def _check_guest(side: Side) -> None:
    if side.machine.state == "running":
        await side.advance(10)
        assert not side.machine.accel.engine.limit_in_service
    else:
        before = side.progress()
        await asyncio.sleep(0.001)
        assert side.progress() == before, "the guest runs in two places"


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case is a machine whose guest is to move."""
    answers.LAST_WORDS_S = 0.05  # of a silent peer

    def case(rng: random.Random) -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(_case(rng))
            finally:
                os.unlink(PATH)

    yield case
