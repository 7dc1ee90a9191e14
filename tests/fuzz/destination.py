"""The stream that a destination reads: control frames and page frames, whole and damaged.

A whole stream is loaded: the migration is completed, RAM has the pages that were sent. A damaged
one either is loaded, if the damage did no harm, or is refused: the migration has failed with one
line, and the guest has not run.
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
from qmpserver.vm.migration.description import describe
from tests.fuzz.explore import Case
from tests.fuzz.messages import spoil
from tests.fuzz.values import spoilt
from tests.vm.migration.conftest import NOTHING_PASSED, Side, opened

PAGE = 4096
RAM = 4 << 20
BLOCK = 512  # pages that travel on one channel
RUN = 64  # the most pages of a frame
PAGES, ZERO, SYNC = 1, 2, 3
PATH = "m"
STUCK = 0.3  # seconds without a reader until a source gives up
PATIENCE = 60.0
MESSAGE = wire.CONTROL.to_bytes(4, "little")
STATES = ["running", "paused", "prelaunch", "postmigrate"]
RAM_PAGES = RAM // PAGE

Part = tuple[int, bytes]  # the channel, 0 is the main one, and the bytes of a frame


class Stream:
    """A stream of a source, frame by frame, and the RAM that it makes."""

    def __init__(self, rng: random.Random, side: Side, channels: int) -> None:
        self._rng = rng
        self.channels = channels
        self.pages: dict[int, bytes] = {}
        self.run_state = rng.choice(STATES)
        self.parts: list[Part] = []
        self._counts = {channel: [0, 0] for channel in range(channels + 1)}
        hello = describe(side.machine, identify=False)
        self._control(0, "hello", **hello, channels=channels, cookie="c")
        for number in range(channels):
            self._control(number + 1, "hello", channel=number, cookie="c")
        for _ in range(rng.randrange(25)):
            self._frame()
        for channel in range(1, channels + 1) if channels else [0]:
            count = self._counts[channel]
            self.parts.append((channel, wire.HEADER.pack(SYNC, 0, *count)))
        state = side.machine.accel.save_state()
        limits = [rng.choice([0, 0, 50])]
        self._control(0, "state", state=state, limits=limits, run_state=self.run_state)
        self._control(0, "go")

    def _control(self, channel: int, kind: str, /, **members: Any) -> None:
        self.parts.append((channel, wire.encode(kind, **members)))

    def _frame(self) -> None:
        rng = self._rng
        page = rng.randrange(RAM_PAGES)
        channel = page // BLOCK % self.channels + 1 if self.channels else 0
        if rng.random() < 0.4:
            room = RAM_PAGES - page if not self.channels else BLOCK - page % BLOCK
            count, kind, payload = rng.randint(1, room), ZERO, b""
            contents = [bytes(PAGE)] * count
        else:
            count, kind = rng.randint(1, min(RUN - page % RUN, 8)), PAGES
            contents = [rng.choice([rng.randbytes(PAGE), b"\xff" * PAGE]) for _ in range(count)]
            payload = b"".join(contents)
        self._counts[channel][kind == ZERO] += count
        self.pages |= dict(enumerate(contents, page))
        self.parts.append((channel, wire.HEADER.pack(kind, count, page, 0) + payload))

    def damage(self) -> None:
        """Damage one frame."""
        rng, parts = self._rng, self.parts
        index = rng.randrange(len(parts))
        channel, data = parts[index]
        match rng.randrange(8):
            case 0:
                del parts[index]
            case 1:
                parts.insert(index, parts[index])
            case 2:
                other = rng.randrange(len(parts))
                parts[index], parts[other] = parts[other], parts[index]
            case 3:
                parts[index] = channel, spoil(rng, data)
            case 4:
                parts[index] = channel, data[: rng.randrange(len(data))]
                del parts[index + 1 :]
            case 5 if len(data) >= wire.HEADER.size:
                number = rng.choice(
                    [0, 1, 2, 3, 16, 64, 65, 512, 1023, 1024, 1 << 31, (1 << 64) - 1]
                )
                words = list(wire.HEADER.unpack(data[: wire.HEADER.size]))
                field = rng.randrange(4)
                words[field] = number % (1 << (32 if field < 2 else 64))
                parts[index] = channel, wire.HEADER.pack(*words) + data[wire.HEADER.size :]
            case _:
                self._spoil_message()

    def _spoil_message(self) -> None:
        control = [
            (index, channel, data[wire.HEADER.size :])
            for index, (channel, data) in enumerate(self.parts)
            if data.startswith(MESSAGE)
        ]
        if not control:
            return
        index, channel, said = self._rng.choice(control)
        try:
            other: object = json.loads(said)
        except ValueError:  # it is damaged already
            return
        for _ in range(self._rng.randint(1, 2)):
            other = spoilt(other, self._rng)
        payload = json.dumps(other).encode()
        frame = wire.HEADER.pack(wire.CONTROL, 0, len(payload), 0) + payload
        self.parts[index] = channel, frame


async def _send(stream: Stream, rng: random.Random, patience: float) -> None:
    """Send a stream over its channels, in pieces, and hang up, also if not all of it is taken."""
    loop = asyncio.get_running_loop()

    async def send(sock: socket.socket, data: bytes, cut: int) -> None:
        with contextlib.suppress(OSError):
            await loop.sock_sendall(sock, data[:cut])
            await asyncio.sleep(0)
            await loop.sock_sendall(sock, data[cut:])

    with contextlib.ExitStack() as stack:
        sockets, sending = [], []
        for channel in range(stream.channels + 1):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            sockets.append(sock)
            data = b"".join(part for number, part in stream.parts if number == channel)
            cut = rng.randint(0, len(data)) if rng.random() < 0.2 else len(data)
            # The destination may have refused the first channel already.
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                await loop.sock_connect(sock, PATH)
                sending.append(asyncio.ensure_future(send(sock, data, cut)))
        _, stuck = await asyncio.wait(sending, timeout=patience)
        for one in stuck:
            one.cancel()
        if stuck:
            await asyncio.wait(stuck)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while await loop.sock_recv(sockets[0], 4096):
                pass


async def _case(rng: random.Random) -> int:
    side = Side("soft", ram=RAM, vcpus=1, incoming=True, size="1M", rate="50")
    async with opened(side), asyncio.timeout(PATIENCE):
        stream = Stream(rng, side, rng.choice([0, 0, 1, 2]))
        damaged = rng.random() < 0.8
        if damaged:
            for _ in range(rng.choice([1, 1, 2])):
                stream.damage()
        await side.migration.incoming(
            parse_uri(f"unix:{PATH}"), NOTHING_PASSED, exit_on_error=False
        )
        before = side.progress()
        await _send(stream, rng, STUCK if damaged else PATIENCE)
        status = await side.ended()
        error = side.error
        if status == "failed":
            assert damaged, error
            assert "internal error" not in error, error
            assert "\n" not in error
            assert side.machine.state == "inmigrate"
            assert side.progress() == before or stream.pages, "the guest has run"
        else:
            assert status == "completed"
            if not damaged:
                _check_loaded(side, stream)
            await side.machine.stop()
    return len(stream.parts)


def _check_loaded(side: Side, stream: Stream) -> None:
    if stream.run_state == "running":
        # The guest's program may be lost among the pages.
        assert side.machine.state in ("running", "internal-error")
    else:
        assert side.machine.state in ("paused", stream.run_state)
        ram = side.machine.ram.buffer
        for page in range(RAM_PAGES):
            content = stream.pages.get(page, bytes(PAGE))
            assert ram[page * PAGE : (page + 1) * PAGE] == content, f"page {page}"


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case is a machine that waits for a guest."""

    def case(rng: random.Random) -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            inputs = runner.run(_case(rng))
        assert not os.path.exists(PATH)
        return inputs

    yield case
