"""qmpserver as a program with its page, for what a browser does to it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient

PATIENCE = 15.0
TOKEN = "the-token-of-this-test"


class Guest:
    """A running qmpserver: its page's address with the token, and a monitor of the test's own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, qmp: QMPClient) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}/?token={TOKEN}"
        self.qmp = qmp

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a command; `_` in the arguments' names stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.qmp.execute(command, named or None)

    async def limits(self) -> dict[int, int]:
        """Return the limits that the machine has."""
        answer = await self.execute("query-vcpu-dirty-limit")
        return {one["cpu-index"]: one["limit-rate"] for one in answer}

    async def until(self, wanted: Callable[[dict[int, int]], bool]) -> dict[int, int]:
        """Wait until the limits are as wanted; return them."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not wanted(limits := await self.limits()):
            assert asyncio.get_running_loop().time() < deadline, f"the limits are {limits}"
            await asyncio.sleep(0.01)
        return limits

    async def until_limits(self, wanted: dict[int, int]) -> None:
        """Wait until the limits are these."""
        await self.until(lambda limits: limits == wanted)


@contextlib.asynccontextmanager
async def serving(
    directory: Path, *options: str, port: int = 0, token: str = TOKEN
) -> AsyncIterator[Guest]:
    """Run a server; `port` is of one that ran before."""
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
    (directory / "token").write_text(token)
    path = directory / "qmp.sock"
    path.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpserver.cli", *options),
        *("-http", f"127.0.0.1:{port},token-file={directory / 'token'}"),
        *("-qmp", f"unix:{path},server=on,wait=off"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    qmp = QMPClient("test")
    try:
        async with asyncio.timeout(PATIENCE):
            await _listening(port, process)
            await qmp.connect(str(path))
        yield Guest(process, port, qmp)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        with contextlib.suppress(EOFError, ConnectionError):
            await qmp.disconnect()


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    while True:
        assert process.returncode is None
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
