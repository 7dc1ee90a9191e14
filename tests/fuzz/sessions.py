"""Several clients of one server at once: bytes and messages, in band and out of band, descriptors.

Plain clients must receive the very bytes that a session without sockets, packets and the fast path
of the parser makes of theirs. Clients with commands that take time must receive one reply to each,
those in band in order. Another client is answered within `BOUND` all the time.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from qmpserver.monitor import Client, Registry, Server
from qmpserver.qapi import Schema
from qmpserver.qmp import CommandError, Large, Parser, Session
from tests.fuzz.explore import Case
from tests.fuzz.messages import encode, json_value, make, pieces, spoil

SCHEMA = Path(__file__).parents[1] / "monitor" / "schema.json"
VERSION = {"qemu": {"major": 11, "minor": 1, "micro": 0}, "package": ""}
BOUND = 5.0  # seconds until another client is answered; a loaded machine takes most of it
OVERTAKEN = 8  # commands in band that others overtake
CLIENTS = 4  # at once
ROUNDS = 20  # of such clients, one after the other, of one server
PATIENCE = 60.0
GRACE = 0.01  # of clients that are gone, and whose commands would take for ever
SOCKET = "q"
EVENT = b'{"timestamp": '
KNOWN = [
    b'{"execute":"echo","arguments":{"a":[1,{"b":null}],"a-b":7},"id":1}',
    b'{"execute":"echo","arguments":{"a-b":1.5},"id":{"x":"y"}}',
    b'{"execute":"echo"}',
    b'{"execute":"big","id":"b"}',
    b'{"execute":"refuse"}',
    b'{"execute":"silent","id":2}',
    b'{"execute":"stop"}',
    b'{"execute":"take-fd","id":3}',
    b'{"exec-oob":"release","id":4}',
    b'{"exec-oob":"echo"}',
    b'{"execute":"release"}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
    b"{'execute':'echo','arguments':{'a':'it\\'s'}}",
    b'{"execute":"echo","arguments":{"c":1}}',
    b"{}",
    b"[1]",
    b'"x" 1 ',
]


class Commands:
    """The commands; those that take time wait for a `release` of the same client."""

    def __init__(self) -> None:
        self.registry = Registry(_schema())
        self.server: Server | None = None
        self._released: dict[Client, asyncio.Event] = {}
        command = self.registry.command

        @command("echo")
        def echo(**arguments: Any) -> dict[str, Any]:
            return arguments

        @command("big")
        def big() -> str:
            return "x" * 3000

        @command("refuse")
        def refuse() -> None:
            raise CommandError("not now", "DeviceNotActive")

        @command("silent")
        def silent() -> None:
            pass

        @command("stop")
        def stop() -> None:
            if self.server is not None:
                self.server.emit("STOP")

        @command("take-fd", client=True)
        def take_fd(client: Client | None) -> None:
            if client is None:
                raise CommandError("No file descriptor supplied via SCM_RIGHTS")
            os.close(client.take_fd())

        @command("block", client=True)
        async def block(client: Client) -> dict[str, Any]:
            released = self._released[client] = asyncio.Event()
            await released.wait()
            return {"blocked": True}

        @command("release", client=True)
        def release(client: Client | None) -> None:
            if client in self._released:
                assert client is not None
                self._released.pop(client).set()


@functools.cache
def _schema() -> Schema:
    return Schema.load(SCHEMA)


@functools.cache
def _alone() -> Registry:
    """Return the commands of a session without a server."""
    return Commands().registry


def replies(packets: Sequence[bytes], *, fast: bool = True) -> bytes:
    """Return the replies of a session without sockets, without the greeting and events."""
    registry = _alone()
    session = Session(VERSION)
    session._parser = Parser(fast=fast, error_places=True)
    session.take_output()
    output = []
    for packet in packets:
        session.receive(packet)
        while (command := session.next_command()) is not None:
            try:
                bound = registry.find(command.name, command.oob)
                arguments = command.arguments
                if type(arguments) is Large:
                    for _ in registry.check_large(bound, arguments):
                        pass
                    arguments = arguments.built()
                result = registry.call(bound, arguments, None)
            except CommandError as error:
                session.fail(command, error)
            else:
                if bound.success_response:
                    session.reply(command, result)
                else:
                    session.finish(command)
        output.append(session.take_output())
    for _ in session.release():
        pass
    return b"".join(output)


def conversation(rng: random.Random) -> list[bytes]:
    """Make up what a client says."""
    said = []
    if rng.random() < 0.9:
        enable = rng.choice([b"", b',"arguments":{"enable":["oob"]}'])
        said.append(b'{"execute":"qmp_capabilities"%b}\n' % enable)
    for number in range(rng.randint(1, 25)):
        made = make(rng, KNOWN)
        if rng.random() < 0.3:
            message = {"execute": "echo", "arguments": {"a": json_value(rng)}, "id": number}
            made = encode(rng, message)
        said.append(made + rng.choice([b"\n", b"", b'\xff\n{"id":"made"}\n']))
    return said


@functools.cache
def _passed() -> int:
    """Return a descriptor to pass to the server; a client's own socket would stay open there."""
    return os.open(os.devnull, os.O_RDONLY)


class Peer:
    """A client's socket in this process."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    async def connect(self) -> None:
        await self._loop.sock_connect(self.socket, SOCKET)
        await self.line()

    async def send(self, data: bytes, *fds: int) -> None:
        """Send; descriptors come with the first bytes."""
        if fds and data:
            with contextlib.suppress(BlockingIOError):
                sent = socket.send_fds(self.socket, [data], list(fds))
                data = data[sent:]
        await self._loop.sock_sendall(self.socket, data)

    async def line(self) -> bytes:
        while b"\n" not in self._unread:
            part = await self._loop.sock_recv(self.socket, 65536)
            assert part, "the server hung up"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    async def rest(self) -> bytes:
        """Read until the server hangs up; return all without events."""
        parts = [self._unread]
        while part := await self._loop.sock_recv(self.socket, 65536):
            parts.append(part)
        lines = b"".join(parts).splitlines(keepends=True)
        return b"".join(line for line in lines if not line.startswith(EVENT))

    async def reply(self) -> Any:
        """Return the next message that is no event."""
        while True:
            line = await self.line()
            if not line.startswith(EVENT):
                return json.loads(line)


@contextlib.asynccontextmanager
async def peer() -> Any:
    """Connect a client past the greeting."""
    made = Peer()
    try:
        await made.connect()
        yield made
    finally:
        made.socket.close()


async def plain(rng: random.Random) -> int:
    """Say anything, with descriptors here and there; compare the replies."""
    said = conversation(rng)
    if rng.random() < 0.1:
        said.append(b'{"id":"%b"}' % (rng.choice([b"\\u00e9", b"x", b"\xc3\xa9"]) * 20_000))
    data = b"".join(said)
    async with peer() as client:
        for packet in pieces(rng, data):
            if rng.random() < 0.02 and b"take-fd" not in data:
                await client.send(packet, *[_passed()] * rng.randint(1, 3))
            else:
                await client.send(packet)
            if rng.random() < 0.1:
                await asyncio.sleep(0)
        client.socket.shutdown(socket.SHUT_WR)
        got = await client.rest()
    expected = replies([data], fast=False)
    assert got == expected, f"said {data!r}\ngot {got!r}\nexpected {expected!r}"
    return len(said)


async def slow(rng: random.Random) -> int:
    """Commands that take time, and others in and out of band: one reply to each."""
    async with peer() as client:
        await client.send(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}')
        assert await client.reply() == {"return": {}}
        count = rng.randint(1, OVERTAKEN)
        in_band = [{"execute": rng.choice(["block", "echo"]), "id": n} for n in range(count)]
        await client.send(b"".join(encode(rng, one) for one in in_band))
        answered: list[int] = []
        released = 0
        while len(answered) < count:
            message = {"exec-oob": "release", "id": 1000 + released}
            await client.send(encode(rng, message), *[_passed()] * rng.randrange(2))
            released += 1
            while True:
                reply = await client.reply()
                assert "return" in reply, reply
                if reply["id"] >= 1000:
                    break
                answered.append(reply["id"])
        assert answered == list(range(count))
    return count + released


async def rude(rng: random.Random) -> int:
    """Say something and go, without a look at the replies."""
    made = Peer()
    with made.socket:
        if rng.random() < 0.8:
            await made.connect()
        else:
            await asyncio.get_running_loop().sock_connect(made.socket, SOCKET)
        with contextlib.suppress(ConnectionError):
            said = b'{"execute":"qmp_capabilities"}' * rng.randrange(2)
            said += b'{"execute":"block"}' * rng.randrange(2)
            said += spoil(rng, b"\n".join(rng.choices(KNOWN, k=10)))
            for packet in pieces(rng, said):
                await made.send(packet, *[_passed()] * rng.choice([0, 0, 0, 2]))
    return 1


async def bystander(ended: asyncio.Event) -> float:
    """Ask again and again until it is over; return the longest time to an answer."""
    worst = 0.0
    async with peer() as client:
        await client.send(b'{"execute":"qmp_capabilities"}')
        assert await client.reply() == {"return": {}}
        while not ended.is_set():
            began = time.monotonic()
            await client.send(b'{"execute":"echo","id":"still there?"}')
            assert await client.reply() == {"return": {}, "id": "still there?"}
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.001)
    return worst


async def _case(rng: random.Random) -> int:
    commands = Commands()
    server = commands.server = Server(commands.registry, version=VERSION)
    inputs = 0
    try:
        await server.serve_unix(SOCKET, max_clients=CLIENTS + 1)
        ended = asyncio.Event()
        watching = asyncio.ensure_future(bystander(ended))
        for _ in range(ROUNDS):
            kinds = rng.choices([plain, slow, rude], [6, 2, 1], k=rng.choice([1, 1, 2, CLIENTS]))
            seeds = [rng.random() for _ in kinds]
            async with asyncio.timeout(PATIENCE):
                counts = await asyncio.gather(
                    *(kind(random.Random(seed)) for kind, seed in zip(kinds, seeds, strict=True))
                )
            inputs += sum(counts)
        ended.set()
        worst = await watching
        assert worst < BOUND, f"another client waited for {worst:.3f} s"
    finally:
        await server.close(GRACE)
    assert not server.clients
    return inputs


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case is a server with rounds of clients."""
    _passed()

    def case(rng: random.Random) -> int:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            inputs = runner.run(_case(rng))
        assert not Path(SOCKET).exists()
        return inputs

    yield case
