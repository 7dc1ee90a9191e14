"""A small command set behind real monitors, and a bare client to talk to them."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from qmpserver.monitor import Client, Registry, Server
from qmpserver.qapi import Schema
from qmpserver.qmp import CommandError

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
SCHEMA = Schema.load(Path(__file__).parent / "schema.json")
PATIENCE = 10.0


class Commands:
    """The handlers of a few commands, which tests watch and steer."""

    def __init__(self) -> None:
        self.registry = Registry(SCHEMA)
        self.executed: list[str] = []
        self.tasks = 0
        self.task: asyncio.Task[Any] | None = None  # of the last `block`
        self.blocked = asyncio.Event()
        self.released = asyncio.Event()
        self.server: Server | None = None
        self.fds: list[int] = []
        self._bind()

    def _bind(self) -> None:
        command = self.registry.command

        @command("echo")
        def echo(**arguments: Any) -> dict[str, Any]:
            self.executed.append("echo")
            self.tasks = len(asyncio.all_tasks())
            return arguments

        @command("big")
        def big() -> str:
            self.executed.append("big")
            return "x" * 100_000

        @command("boom")
        def boom() -> None:
            raise ZeroDivisionError("boom")

        @command("nonsense")
        def nonsense() -> object:
            return object()

        @command("refuse")
        def refuse() -> None:
            raise CommandError("not now", "DeviceNotActive")

        @command("block")
        async def block() -> dict[str, Any]:
            self.executed.append("block")
            self.task = asyncio.current_task()
            self.blocked.set()
            await self.released.wait()
            return {"blocked": True}

        @command("release")
        def release() -> None:
            self.released.set()

        @command("silent")
        def silent() -> None:
            self.executed.append("silent")

        @command("stop")
        def stop() -> None:
            assert self.server is not None
            self.server.emit("STOP")

        @command("take-fd", client=True)
        def take_fd(client: Client) -> None:
            self.fds.append(client.take_fd())


class Peer:
    """A client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def line(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readline()

    async def receive(self) -> Any:
        line = await self.line()
        assert line.endswith(b"\r\n"), line
        return json.loads(line)

    async def execute(self, data: bytes) -> Any:
        self.send(data)
        return await self.receive()

    async def negotiate(self, oob: bool = False) -> None:
        assert "QMP" in await self.receive()
        enable = b', "arguments": {"enable": ["oob"]}' if oob else b""
        reply = await self.execute(b'{"execute": "qmp_capabilities"%b}' % enable)
        assert reply == {"return": {}}

    async def ends(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until *condition* holds."""
    async with asyncio.timeout(PATIENCE):
        for _ in iter(lambda: bool(condition()), True):
            await asyncio.sleep(0.001)


Connect = Callable[[Any], Awaitable[Peer]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    path = tempfile.mkdtemp(prefix="qmp")
    yield Path(path)
    shutil.rmtree(path)


@pytest_asyncio.fixture
async def commands() -> Commands:
    return Commands()


@pytest_asyncio.fixture
async def server(commands: Commands) -> AsyncIterator[Server]:
    server = Server(commands.registry, version=VERSION)
    commands.server = server
    yield server
    await server.close(grace=0.1)


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    async def to(address: Any) -> Peer:
        if isinstance(address, tuple):
            peer = Peer(*await asyncio.open_connection(*address[:2]))
        else:
            peer = Peer(*await asyncio.open_unix_connection(address))
        peers.append(peer)
        return peer

    yield to
    for peer in peers:
        peer.close()
