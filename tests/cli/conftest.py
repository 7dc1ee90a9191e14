"""The whole program in a child process, driven over its sockets."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient
from qemu.qmp.events import EventListener

from tests.conftest import listens, terminate

PATIENCE = 20.0


class Program:
    """A running qmpserver: `path` is its QMP socket."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process = process
        self.path = path

    async def connect(self) -> QMPClient:
        client = QMPClient("test")
        async with asyncio.timeout(PATIENCE):
            await client.connect(str(self.path))
        return client

    async def wait(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


async def hang_up(client: QMPClient) -> None:
    """Disconnect, also if the server has closed the connection first."""
    with contextlib.suppress(EOFError, ConnectionError):
        await client.disconnect()


async def event(listener: EventListener, name: str) -> Any:
    """Wait for the next event, which must be `name`; return its data."""
    async with asyncio.timeout(PATIENCE):
        message = await listener.get()
    assert message["event"] == name
    return message.get("data")


async def execute(client: QMPClient, command: str, **arguments: object) -> Any:
    """Execute a command; `_` in the names of arguments stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return await client.execute(command, named or None)


async def answer(
    client: QMPClient, command: str, wanted: Callable[[Any], bool], **arguments: object
) -> Any:
    """Repeat a command until `wanted` accepts the result; return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            got = await execute(client, command, **arguments)
            if wanted(got):
                return got
            await asyncio.sleep(0.002)


Start = Callable[..., AbstractAsyncContextManager[Program]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the program with options; after the block it is ended, with status 0."""

    @contextlib.asynccontextmanager
    async def run(*options: str, socket: str = "server=on,wait=off") -> AsyncIterator[Program]:
        path = tmp_path / "qmp.sock"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpserver.cli", *options, "-qmp", f"unix:{path},{socket}")
        )
        program = Program(process, path)
        try:
            async with asyncio.timeout(PATIENCE):
                while not listens(path):
                    assert process.returncode is None
                    await asyncio.sleep(0.005)
            yield program
        finally:
            if process.returncode is None:
                terminate(process)
            status = await program.wait()
        assert status == 0
        assert not path.exists()

    return run


@pytest.fixture
def machine(accel: str) -> list[str]:
    """The options of a small machine on the test's accelerator."""
    return ["-accel", f"{accel},dirty-ring-size=4096", "-smp", "2", "-m", "64M"]
