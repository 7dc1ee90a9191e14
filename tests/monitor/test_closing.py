"""The end of a server: nothing is begun after it, nothing is left behind."""

import asyncio
import gc
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.monitor import Server
from qmpserver.monitor.channel import Channel
from tests.monitor.conftest import until

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands, Connect

PATIENCE = 10.0


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "q"


def exists(path: Path) -> bool:
    return path.exists()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_pipelined_commands_are_not_begun_after_close(
    server: Server, path: Path, connect: "Connect", commands: "Commands"
) -> None:
    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}' + b'{"execute": "echo"}' * 3)
    await commands.blocked.wait()
    closing = asyncio.create_task(server.close(PATIENCE))
    await asyncio.sleep(0)
    commands.released.set()
    assert await peer.ends() == b'{"return": {"blocked": true}}\r\n'
    await closing
    assert commands.executed == ["block"]


async def test_a_batch_ends_with_close(
    server: Server, path: Path, connect: "Connect", commands: "Commands"
) -> None:
    """Commands of later batches are not executed either."""
    closings = []

    @commands.registry.command("boom", replace=True)
    def boom() -> None:
        closings.append(asyncio.create_task(server.close(PATIENCE)))

    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "boom"}' + b'{"execute": "echo"}' * 100)
    await peer.ends()
    await closings[0]
    assert len(commands.executed) < 10


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
async def test_close_that_is_cancelled_closes_at_once(
    server: Server, path: Path, connect: "Connect", commands: "Commands", iterations: int
) -> None:
    before, tasks = descriptors(), asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    await server.serve_unix(path)
    await server.open_monitor("null")
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    # A client that came by another way than a device.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server.connect(Channel(loop, theirs), "other")
    with ours:
        assert b"QMP" in await loop.sock_recv(ours, 4096)
        closing = asyncio.create_task(server.close(grace=3600))
        for _ in range(iterations):
            await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert commands.task is not None
        assert commands.task.cancelled()
        assert asyncio.all_tasks() == tasks
        assert (server.clients, server.devices, exists(path)) == (0, [], False)
        assert await loop.sock_recv(ours, 4096) == b""
        assert await peer.ends() == b""
    peer.close()
    await peer.writer.wait_closed()
    assert descriptors() == before


async def test_a_client_that_is_closed_in_the_middle_of_a_command(
    server: Server, commands: "Commands"
) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = server.connect(Channel(loop, theirs), "other")
    with ours:
        await loop.sock_sendall(ours, b'{"execute": "qmp_capabilities"}{"execute": "block"}')
        await commands.blocked.wait()
        await client.close(grace=0)
        assert commands.task is not None
        await asyncio.wait({commands.task}, timeout=PATIENCE)
        assert commands.task.cancelled()
        received = b""
        while data := await loop.sock_recv(ours, 4096):
            received += data
        assert received.endswith(b'{"return": {}}\r\n')
    assert server.clients == 0


async def test_two_that_close(
    server: Server, path: Path, connect: "Connect", commands: "Commands"
) -> None:
    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    closings = [asyncio.create_task(server.close(PATIENCE)) for _ in range(2)]
    await asyncio.sleep(0)
    commands.released.set()
    assert await peer.ends() == b'{"return": {"blocked": true}}\r\n'
    await asyncio.gather(*closings)


async def test_two_that_close_while_a_client_does_not_read(
    server: Server, path: Path, connect: "Connect", commands: "Commands"
) -> None:
    await server.serve_unix(path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, str(path))
        await loop.sock_recv(peer, 4096)
        big = b'{"execute": "big"}' * 5
        await loop.sock_sendall(peer, b'{"execute": "qmp_capabilities"}' + big)
        await until(lambda: len(commands.executed) == 5)
        async with asyncio.timeout(PATIENCE):
            closings = [asyncio.create_task(server.close(3600)) for _ in range(2)]
            await asyncio.sleep(0)
            received = b""
            while data := await loop.sock_recv(peer, 1 << 20):
                received += data
            await asyncio.gather(*closings)
    assert received.count(b"\n") == 6


async def test_events_during_and_after_close(
    server: Server, path: Path, connect: "Connect", commands: "Commands"
) -> None:
    @commands.registry.command("block", replace=True)
    async def block() -> dict[str, Any]:
        commands.blocked.set()
        await commands.released.wait()
        server.emit("STOP")
        return {"blocked": True}

    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    closing = asyncio.create_task(server.close(PATIENCE))
    await asyncio.sleep(0)
    server.emit("STOP")
    commands.released.set()
    assert (await peer.receive())["event"] == "STOP"
    assert (await peer.receive())["event"] == "STOP"
    assert await peer.receive() == {"return": {"blocked": True}}
    await closing
    server.emit("STOP")
    server.emit_threadsafe("STOP")


async def test_close_releases_limited_events_and_descriptors(server: Server) -> None:
    before = descriptors()
    server._check_events = False  # the schema has no such event
    server.emit("RTC_CHANGE")
    server.emit("RTC_CHANGE")
    server.fds.keep("monitor", "name", os.open(os.devnull, os.O_RDONLY))
    server.fds.add(os.open(os.devnull, os.O_RDONLY), None, None)
    assert len(descriptors()) == len(before) + 2
    assert len(server._limiter._timers) == 1
    await server.close()
    assert descriptors() == before
    assert not server._limiter._timers


async def test_close_does_not_wait_for_a_client_that_vanishes(
    server: Server, path: Path, commands: "Commands"
) -> None:
    await server.serve_unix(path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, str(path))
        big = b'{"execute": "big"}' * 5
        await loop.sock_sendall(peer, b'{"execute": "qmp_capabilities"}' + big)
        await until(lambda: len(commands.executed) == 5)
        closing = asyncio.create_task(server.close(3600))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not closing.done()
    async with asyncio.timeout(PATIENCE):
        await closing


async def test_a_closed_server_opens_nothing(server: Server, path: Path) -> None:
    await server.close()
    with pytest.raises(RuntimeError, match="the server is closed"):
        await server.serve_unix(path)
    assert not exists(path)


async def test_a_device_that_opens_too_late(server: Server, directory: Path) -> None:
    """A connection that comes about when its server has closed is closed, too."""
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as manager, socket.socket(socket.AF_UNIX) as first:
        manager.bind(str(directory / "m"))
        manager.listen(0)
        first.connect(str(directory / "m"))  # the backlog is full now
        opening = asyncio.create_task(server.open_monitor(f"unix:{directory}/m"))
        await asyncio.sleep(0)
        await server.close()
        manager.accept()[0].close()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(RuntimeError, match="the server is closed"):
                await opening
        second, _ = manager.accept()
        second.setblocking(False)
        with second:
            assert await asyncio.get_running_loop().sock_recv(second, 1) == b""
    assert descriptors() == before


@pytest.mark.parametrize("arguments", [b"", b',"arguments":{"a":[%b1]}' % (b"1," * 2000)])
async def test_a_command_that_is_abandoned_before_it_begins(
    commands: "Commands", arguments: bytes
) -> None:
    """Nothing is warned of: no coroutine is forgotten."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = Server(commands.registry)
    with theirs:
        client = server.connect(Channel(asyncio.get_running_loop(), ours), "socket")
        executor = client._executor
        name = b"echo" if arguments else b"block"
        said = b'{"execute":"qmp_capabilities"}{"execute":"%b"%b}' % (name, arguments)
        executor.data_received(said)
        while executor._task is None:
            executor._run_scheduled()
        executor.abort()
        await server.close(0)
    gc.collect()
    assert not commands.executed
