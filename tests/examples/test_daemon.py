"""The example of a daemon with a schema of its own, run as a program."""

import asyncio
import re
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from qemu.qmp import ExecuteError, QMPClient

from qmpserver.qapi import Schema
from tests.cli.conftest import PATIENCE, event, execute, hang_up
from tests.conftest import listens

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "examples" / "daemon.py"
SCHEMA = Schema.load(DAEMON.with_name("daemon-schema.json"))


class Daemon:
    """The running example and its socket."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process = process
        self.path = path

    async def connect(self) -> QMPClient:
        client = QMPClient("test")
        async with asyncio.timeout(PATIENCE):
            await client.connect(str(self.path))
        return client


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    path = tmp_path / "kettle.sock"
    process = await asyncio.create_subprocess_exec(sys.executable, str(DAEMON), str(path))
    try:
        async with asyncio.timeout(PATIENCE):
            while not listens(path):
                assert process.returncode is None
                await asyncio.sleep(0.005)
        yield Daemon(process, path)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
async def test_daemon(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
    cook, guest = await daemon.connect(), await daemon.connect()
    with guest.listener("HOT") as events:
        heating = asyncio.create_task(execute(cook, "heat", to=40))
        # Others are served while the command waits.
        kettle = await execute(guest, "query-kettle")
        SCHEMA.commands["query-kettle"].validate_result(kettle)
        assert kettle["temperature"] < 40
        assert not heating.done()
        async with asyncio.timeout(PATIENCE):
            SCHEMA.commands["heat"].validate_result(await heating)
        hot = await event(events, "HOT")
        SCHEMA.events["HOT"].validate(hot)
    assert hot == await execute(cook, "query-kettle") == {"temperature": 40}
    assert await execute(cook, "quit") == {}
    async with asyncio.timeout(PATIENCE):
        assert await daemon.process.wait() == 0
    assert not daemon.path.exists()
    await hang_up(cook)
    await hang_up(guest)


@pytest.mark.slow
async def test_qmp_shell_drives_the_daemon(daemon: Daemon) -> None:
    shell = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qemu.qmp.qmp_shell", str(daemon.path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        shown, _ = await shell.communicate(b"heat to=30\nquery-kettle\nquit\n")
        assert await daemon.process.wait() == 0
    assert b'"temperature": 30' in shown


async def test_daemon_refuses_commands_outside_its_schema(daemon: Daemon) -> None:
    client = await daemon.connect()
    for command, arguments, words in (
        ("heat", {"to": 200}, "Parameter 'to' expects int8_t"),
        ("heat", {"to": "hot"}, "Invalid parameter type for 'to', expected: integer"),
        ("heat", {"fast": True}, "Parameter 'fast' is unexpected"),
        ("cool", {}, "The command cool has not been found"),
    ):
        with pytest.raises(ExecuteError, match=re.escape(words)):
            await execute(client, command, **arguments)
    assert await execute(client, "query-kettle") == {"temperature": 20}
    await hang_up(client)


def test_daemon_is_short() -> None:
    lines = [line for line in DAEMON.read_text().splitlines() if line.strip()]
    assert len(lines) < 30
