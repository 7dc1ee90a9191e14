"""Stand-ins in this process, and a client that sees every byte."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from qmpserver.standin import Scenario, StandIn
from qmpserver.testing.questions import Questions
from qmpserver.transcript.conversation import Conversation

PATIENCE = 10.0
COMMAND = [sys.executable, "-m", "qmpserver.cli", "-fake"]
LIMIT = 64 * 1024 * 1024


class Raw:
    """A client that reads lines and does not interpret them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> "Raw":
        return cls(*await asyncio.open_unix_connection(path, limit=LIMIT))

    def send(self, command: str, arguments: object = None, **members: object) -> None:
        given = {} if arguments is None else {"arguments": arguments}
        message = {"execute": command, **given, **members}
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def line(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readline()

    async def receive(self) -> Any:
        line = await self.line()
        assert line, "the server hung up"
        return json.loads(line)

    async def reply(self) -> Any:
        """Return the next message that is no event."""
        while True:
            message = await self.receive()
            if "event" not in message:
                return message

    async def execute(self, command: str, arguments: object = None) -> Any:
        """Return what a command returns, or its error."""
        self.send(command, arguments)
        reply = await self.reply()
        return reply["return"] if "return" in reply else reply["error"]

    async def event(self) -> tuple[str, Any]:
        message = await self.receive()
        assert "event" in message, message
        return message["event"], message.get("data")

    async def negotiate(self) -> None:
        assert "QMP" in await self.receive()
        assert await self.execute("qmp_capabilities") == {}

    async def silent(self, seconds: float = 0.2) -> bool:
        """Return whether nothing comes for so long, also no end of the connection."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Served:
    """A stand-in on a socket, and its clients."""

    def __init__(self, scenario: Scenario, path: Path) -> None:
        conversation = Conversation()
        self.stand_in = StandIn(scenario, conversation=conversation)
        self.said = Questions(conversation)
        self.path = path
        self._clients: list[Raw] = []

    async def connect(self) -> Raw:
        """Return a client that has not read the greeting."""
        client = await Raw.connect(self.path)
        self._clients.append(client)
        return client

    async def client(self) -> Raw:
        """Return a client past negotiation."""
        client = await self.connect()
        await client.negotiate()
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.stand_in.close()


Start = Callable[..., subprocess.Popen[Any]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the program with a scenario and options; `how` goes to `Popen`."""
    started: list[subprocess.Popen[Any]] = []

    def run(
        scenario: str, *options: str, fds: tuple[int, ...] = (), **how: Any
    ) -> subprocess.Popen[Any]:
        process: subprocess.Popen[Any] = subprocess.Popen(
            [*COMMAND, scenario, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            **how,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve a scenario, also given as a table or as the value of `-fake`."""

    @contextlib.asynccontextmanager
    async def run(
        scenario: Scenario | dict[str, Any] | str | None = None, *, max_clients: int = 1
    ) -> AsyncIterator[Served]:
        if isinstance(scenario, Scenario):
            made = scenario
        elif isinstance(scenario, str):
            made = Scenario.from_option(scenario)
        else:
            made = Scenario.read(scenario or {})
        path = tmp_path / "qmp.sock"
        served = Served(made, path)
        try:
            await served.stand_in.serve_unix(path, max_clients=max_clients)
            yield served
        finally:
            await served.close()

    return run
