"""Migrations between two whole programs, by QMP; the destination's end when one fails."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from tests.cli.conftest import PATIENCE, Program, answer, execute, hang_up
from tests.conftest import Until, listens, terminate

ENDED = ("completed", "failed", "cancelled")
Launch = Callable[..., AbstractAsyncContextManager[Program]]


@pytest.fixture
def launch(accel: str, tmp_path: Path) -> Launch:
    """Start a program under a name; after the block it is ended."""

    @contextlib.asynccontextmanager
    async def run(name: str, *options: str) -> AsyncIterator[Program]:
        path = tmp_path / f"{name}.sock"
        machine = ["-accel", f"{accel},dirty-ring-size=4096", "-smp", "2", "-m", "64M"]
        machine += ["-guest", "dirty,rate=20", "-qmp", f"unix:{path},server=on,wait=off"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpserver.cli", *machine, *options),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while not listens(path):
                    assert process.returncode is None
                    await asyncio.sleep(0.005)
            yield Program(process, path)
        finally:
            terminate(process)
            await process.wait()

    return run


async def ended(client: QMPClient) -> Any:
    return await answer(client, "query-migrate", lambda info: info.get("status") in ENDED)


@pytest.mark.slow
async def test_incoming_uri(launch: Launch, tmp_path: Path, until: Until) -> None:
    uri = f"unix:{tmp_path}/m"
    async with launch("a") as a, launch("b", "-incoming", uri) as b:
        await asyncio.to_thread(until, lambda: listens(tmp_path / "m"))
        source, destination = await a.connect(), await b.connect()
        status = await execute(destination, "query-status")
        assert status == {"running": False, "status": "inmigrate"}
        await execute(source, "migrate", uri=uri)
        info = await ended(source)
        assert info["status"] == "completed"
        assert info["ram"]["remaining"] == 0
        assert (await execute(source, "query-status"))["status"] == "postmigrate"
        await answer(destination, "query-status", lambda status: status["running"])
        for client in (source, destination):
            await hang_up(client)


@pytest.mark.slow
async def test_deferred_and_stopped(launch: Launch) -> None:
    """A TCP port is chosen by the kernel and told by query-migrate; -S leaves the guest paused."""
    async with launch("a") as a, launch("b", "-incoming", "defer", "-S") as b:
        source, destination = await a.connect(), await b.connect()
        await execute(destination, "migrate-incoming", uri="tcp:127.0.0.1:0")
        (address,) = (await execute(destination, "query-migrate"))["socket-address"]
        await execute(source, "migrate", uri=f"tcp:{address['host']}:{address['port']}")
        assert (await ended(source))["status"] == "completed"
        await answer(destination, "query-status", lambda status: status["status"] == "paused")
        await execute(destination, "cont")
        assert (await execute(destination, "query-status"))["running"]
        for client in (source, destination):
            await hang_up(client)


@pytest.mark.slow
async def test_passed_descriptors(launch: Launch) -> None:
    """As libvirt does it: getfd on both sides, then fd:NAME."""
    async with launch("a") as a, launch("b", "-incoming", "defer") as b:
        source, destination = await a.connect(), await b.connect()
        ours, theirs = socket.socketpair()
        for client, end in ((source, ours), (destination, theirs)):
            client.send_fd_scm(end.fileno())
            await execute(client, "getfd", fdname="moved")
            end.close()
        await execute(destination, "migrate-incoming", uri="fd:moved")
        await execute(source, "migrate", uri="fd:moved")
        assert (await ended(source))["status"] == "completed"
        await answer(destination, "query-status", lambda status: status["running"])
        for client in (source, destination):
            await hang_up(client)


@pytest.mark.slow
async def test_a_file_in_a_set_of_descriptors(launch: Launch, tmp_path: Path) -> None:
    """As libvirt saves a guest: the server need not be able to open the file itself."""
    uri = "file:/dev/fdset/7,offset=4096"
    async with launch("a") as a, launch("b", "-incoming", "defer") as b:
        source, destination = await a.connect(), await b.connect()
        await execute(source, "migrate", uri=uri)
        assert (await ended(source))["error-desc"] == "Failed to find fdset /dev/fdset/7"
        for client, flags in ((source, os.O_WRONLY | os.O_CREAT), (destination, os.O_RDONLY)):
            fd = os.open(tmp_path / "saved", flags)
            client.send_fd_scm(fd)
            os.close(fd)
            await execute(client, "add-fd", **{"fdset-id": 7})
        await execute(source, "migrate", uri=uri)
        assert (await ended(source))["status"] == "completed"
        await execute(destination, "migrate-incoming", uri=uri)
        await answer(destination, "query-status", lambda status: status["running"])
        for client in (source, destination):
            assert len((await execute(client, "query-fdsets"))[0]["fds"]) == 1
            await hang_up(client)


@pytest.mark.slow
async def test_a_failure_ends_the_destination(launch: Launch, tmp_path: Path, until: Until) -> None:
    async with launch("b", "-incoming", f"unix:{tmp_path}/m") as b:
        await asyncio.to_thread(until, lambda: listens(tmp_path / "m"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/m")
        assert await b.wait() == 1
        assert b.process.stderr is not None
        said = (await b.process.stderr.read()).decode()
        assert said.endswith("load of migration failed: the peer has closed the connection\n")
    assert os.listdir(tmp_path) == []


async def test_a_failure_may_leave_the_destination(launch: Launch, tmp_path: Path) -> None:
    async with launch("b", "-incoming", "defer") as b:
        destination = await b.connect()
        uri = f"unix:{tmp_path}/m"
        await execute(destination, "migrate-incoming", uri=uri, exit_on_error=False)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/m")
        info = await ended(destination)
        assert info["status"] == "failed"
        assert info["error-desc"] == "the peer has closed the connection"
        await hang_up(destination)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nonsense", "unknown migration protocol: nonsense"),
        ("unix:/nowhere/m", "Failed to bind socket to /nowhere/m: No such file or directory"),
        ("exec:exit 3", None),
    ],
)
async def test_incoming_that_cannot_be(uri: str, words: str | None) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpserver.cli", "-accel", "soft", "-m", "16M", "-incoming", uri),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    assert process.returncode == 1
    expected = f"-incoming {uri}: {words}" if words else "load of migration failed: "
    assert expected in said.decode()
    assert "Traceback" not in said.decode()
