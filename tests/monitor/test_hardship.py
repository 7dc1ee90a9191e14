"""Many, rude or slow clients; peers that do not answer; a process without free descriptors."""

import array
import asyncio
import contextlib
import os
import random
import resource
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import qmpserver.monitor.client
import qmpserver.monitor.socket_devices
from qmpserver.monitor import DeviceError, Server, UnixAddress
from tests.monitor.conftest import until

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands, Connect

MAX_FDS = 16  # of a message, as in QEMU
PATIENCE = 10.0


@pytest.fixture
def path(directory: Path) -> str:
    return str(directory / "q")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_more_descriptors(spare: int = 0) -> Iterator[None]:
    """Leave this process no free descriptor, or a few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_descriptors(
    server: Server,
    path: str,
    connect: "Connect",
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(qmpserver.monitor.socket_devices, "_ACCEPT_AGAIN", 0.02)
    await server.serve_unix(path, max_clients=8)
    first = await connect(path)
    await first.negotiate()
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.setblocking(False)
        with no_more_descriptors():
            knocking.connect(path)
            await until(lambda: len(caplog.records) >= 3)  # it tries again, and does not spin
            assert await first.execute(b'{"execute": "echo"}') == {"return": {}}
            # What comes with a message is lost then, and no more than that.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
            sock = first.writer.get_extra_info("socket")
            os_socket = cast("Any", sock)._sock if hasattr(sock, "_sock") else sock
            os_socket.sendmsg([b'{"execute": "take-fd"}'], rights)
            assert "No file descriptor supplied" in (await first.receive())["error"]["desc"]
        assert "Too many open files" in caplog.text
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            assert b"QMP" in await loop.sock_recv(knocking, 4096)
    assert await first.execute(b'{"execute": "echo"}') == {"return": {}}


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="a watch needs no descriptor")
async def test_a_descriptor_for_a_client_but_none_to_watch_it(
    server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is disconnected, and its place is free for the next one."""
    device = await server.add_chardev(f"socket,id=c,path={path},server=on,wait=off")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        with no_more_descriptors(spare=1):
            client.connect(path)
            async with asyncio.timeout(PATIENCE):
                assert await loop.sock_recv(client, 1) == b""
    assert caplog.messages == ["c: cannot watch a client, disconnected: Too many open files"]
    assert device.filename.startswith("disconnected:")
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.connect(path)
        await until(lambda: not device.filename.startswith("disconnected:"))
        server.add_monitor("c,mode=control")
        async with asyncio.timeout(PATIENCE):
            assert b"QMP" in await loop.sock_recv(client, 4096)


@pytest.mark.parametrize(
    ("options", "nodelay"), [("", 0), (",nodelay=on", 1), (",delay=off", 1), (",delay=on", 0)]
)
@pytest.mark.parametrize("server_end", [True, False])
async def test_nodelay(server: Server, options: str, nodelay: int, server_end: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if server_end:
            device = await server.open_monitor(f"tcp:127.0.0.1:0,server=on,wait=off{options}")
            client = socket.create_connection(device.address)  # type: ignore[attr-defined]
        else:
            port = listening.getsockname()[1]
            await server.open_monitor(f"tcp:127.0.0.1:{port}{options}")
            client, _ = listening.accept()
        with client:
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 4096)
            assert _option_of_peer(client) == nodelay


def _option_of_peer(client: socket.socket) -> int:
    """Find the other end, which is in this process."""
    for name in descriptors():
        if not Path(f"/proc/self/fd/{name}").is_socket():
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as other:
            if other.family == client.family and other.getpeername() == client.getsockname():
                return bool(other.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    raise AssertionError("it is not there")


async def test_connecting_to_a_peer_that_does_not_answer(
    server: Server, directory: Path, connect: "Connect"
) -> None:
    """Others are served meanwhile; when there is an answer after all, it is used."""
    await server.serve_unix(directory / "q")
    with socket.socket(socket.AF_UNIX) as manager, socket.socket(socket.AF_UNIX) as first:
        manager.bind(str(directory / "m"))
        manager.listen(0)
        first.connect(str(directory / "m"))  # there is no place for another now
        device = await server.open_monitor(f"unix:{directory}/m,reconnect=60")
        peer = await connect(str(directory / "q"))
        await peer.negotiate()
        assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}
        assert device.filename == f"disconnected:unix:{directory}/m"
        manager.accept()[0].close()
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            connection, _ = await loop.sock_accept(manager)
            with connection:
                assert b"QMP" in await loop.sock_recv(connection, 4096)


async def test_close_does_not_wait_for_a_connection_attempt(
    server: Server, directory: Path
) -> None:
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as manager, socket.socket(socket.AF_UNIX) as first:
        manager.bind(str(directory / "m"))
        manager.listen(0)
        first.connect(str(directory / "m"))
        await server.open_monitor(f"unix:{directory}/m,reconnect=1")
        async with asyncio.timeout(PATIENCE):
            await server.close()
    # The attempt fails now, and nothing of it stays.
    name = "connect-compat_monitor0"
    await until(lambda: all(thread.name != name for thread in threading.enumerate()))
    assert descriptors() == before


async def test_connecting_to_a_peer_that_comes_late(server: Server, directory: Path) -> None:
    chardev = qmpserver.monitor.SocketChardev(
        UnixAddress(str(directory / "m")), reconnect_ms=10, id="late"
    )
    device = await server.open_monitor(chardev)
    assert device.filename.startswith("disconnected:")
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(directory / "m"))
        manager.listen()
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            connection, _ = await loop.sock_accept(manager)
            with connection:
                assert b"QMP" in await loop.sock_recv(connection, 4096)


async def test_attempts_to_connect_are_logged_once_and_end_with_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[object] = []

    def refuse(address: object) -> socket.socket:
        attempts.append(address)
        raise DeviceError("refused")

    monkeypatch.setattr(qmpserver.monitor.socket_devices, "connect", refuse)
    device = cast("Any", await server.open_monitor("unix:nowhere,reconnect-ms=1"))
    await until(lambda: len(attempts) >= 3)
    assert caplog.messages == ["Unable to connect character device compat_monitor0: refused"]
    await until(lambda: device._retry is not None and not device._retry.cancelled())
    await server.close()
    assert device._retry.cancelled()


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_device_without_a_monitor(server: Server, path: str, tcp: bool) -> None:
    """Its clients may come and go, and their bytes are kept for a monitor that attaches to it."""
    if tcp and not hasattr(select, "epoll"):
        pytest.skip("without epoll, a client that has sent something is not seen to leave")
    before = descriptors()
    address = "host=127.0.0.1,port=0" if tcp else f"path={path}"
    device = await server.add_chardev(f"socket,id=c,{address},server=on,wait=off")
    for said in (b"", b"hello", b"x" * 100_000):
        with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, device.address)  # type: ignore[attr-defined]
            await until(lambda: not device.filename.startswith("disconnected:"))
            if said:
                client.send(said)
        await until(lambda: device.filename.startswith("disconnected:"))
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
        client.setblocking(False)
        await loop.sock_connect(client, device.address)  # type: ignore[attr-defined]
        client.send(b'{"execute": "qmp_capabilities"}')
        await until(lambda: not device.filename.startswith("disconnected:"))
        server.add_monitor("c,mode=control")
        async with asyncio.timeout(PATIENCE):
            said = b""
            while said.count(b"\n") < 2:
                said += await loop.sock_recv(client, 4096)
        assert said.endswith(b'{"return": {}}\r\n')
    await server.close()
    assert descriptors() == before


async def test_yank_with_several_clients(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    device = await server.serve_unix(path, max_clients=3)
    peers = [await connect(path) for _ in range(3)]
    for peer in peers:
        await peer.negotiate()
    waiting = await connect(path)
    peers[0].send(b'{"execute": "block"}')
    await commands.blocked.wait()
    cast("Any", device).yank()
    for peer in peers:
        assert await peer.ends() == b""
    await waiting.negotiate()
    commands.released.set()
    assert await waiting.execute(b'{"execute": "echo"}') == {"return": {}}
    assert server.clients == 1


async def test_a_flood_of_descriptors(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    """Those of the last message are kept, no more than a message may have; none for longer."""
    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    before = len(descriptors())
    null = os.open(os.devnull, os.O_RDONLY)
    sock = socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno()))
    with sock:
        for number in range(200):
            rights = array.array("i", [null] * (number % 40 + 1))
            sock.sendmsg([b'{"execute": "echo"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            assert await peer.receive() == {"return": {}}
            assert len(descriptors()) <= before + 2 + MAX_FDS
        sock.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 9))])
        await until(lambda: len(descriptors()) == before + 2 + 9)
        # Of several a command takes the first, and the others are closed.
        assert await peer.execute(b'{"execute": "take-fd"}') == {"return": {}}
        assert os.path.samestat(os.fstat(commands.fds[0]), os.fstat(null))
        os.close(commands.fds[0])
        assert len(descriptors()) == before + 2
        sock.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 9))])
        await until(lambda: len(descriptors()) == before + 2 + 9)
    os.close(null)
    peer.close()
    await until(lambda: len(descriptors()) == before - 2)
    assert server.clients == 0


@pytest.mark.parametrize("tcp", [False, True])
async def test_storm_of_connections(
    server: Server, path: str, connect: "Connect", commands: "Commands", tcp: bool
) -> None:
    """A thousand clients come and go at any time, in any way; all resources are released."""
    where = "tcp:127.0.0.1:0,nodelay=on" if tcp else f"unix:{path}"
    device = await server.open_monitor(f"{where},server=on,wait=off,max-clients=4")
    address = cast("Any", device).address
    await asyncio.sleep(0)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    said = b'{"execute": "qmp_capabilities"}{"execute": "echo"}{"execute": "block"}'

    async def come_and_go() -> None:
        with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, address)
            if rng.random() < 0.5:
                whole = rng.random() < 0.2
                length = len(said) if whole else rng.randrange(1, len(said))
                await loop.sock_sendall(client, said[:length])
            if rng.random() < 0.3:
                client.shutdown(socket.SHUT_WR)
            if rng.random() < 0.5:
                with contextlib.suppress(ConnectionError):
                    await loop.sock_recv(client, 4096)
            if tcp and rng.random() < 0.5:  # with a reset
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def release() -> None:
        while True:
            commands.released.set()
            commands.released.clear()
            await asyncio.sleep(0.001)

    releasing = asyncio.create_task(release())
    async with asyncio.timeout(60):
        for _ in range(50):
            await asyncio.gather(*(come_and_go() for _ in range(20)))
    await until(lambda: server.clients == 0)
    await until(lambda: descriptors() == before)
    assert commands.executed.count("block") > 10
    await until(lambda: len(asyncio.all_tasks()) == tasks + 1)
    releasing.cancel()
    peer = await connect(address)
    await peer.negotiate()


async def test_a_client_that_never_reads_costs_a_bounded_amount(
    server: Server, path: str, connect: "Connect", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsent output and unread input stay within their limits."""
    monkeypatch.setattr(qmpserver.monitor.client, "MAX_UNSENT_REPLIES", 50_000)
    monkeypatch.setattr(qmpserver.monitor.client, "MAX_UNSENT_EVENTS", 200_000)
    await server.serve_unix(path, max_clients=2)
    silent, other = await connect(path), await connect(path)
    await silent.negotiate()
    await other.negotiate()
    cast("asyncio.Transport", silent.writer.transport).pause_reading()
    silent.send(b'{"execute": "big"}' * 10_000)
    await until(lambda: any(executor.channel.unsent for executor in server._executors))
    channel = next(each.channel for each in server._executors if each.channel.unsent)
    assert channel.unsent < 50_000 + 2 * 100_100
    for number in range(1000):
        server.emit("STOP", {"a": number, "filler": "x" * 1000})
        assert channel.unsent < 50_000 + 2 * 100_100 + 200_000
        assert (await other.receive())["data"]["a"] == number
    assert channel.closed
    assert server.clients == 1


async def test_a_pipe_that_answers_itself(
    server: Server, directory: Path, path: str, connect: "Connect"
) -> None:
    """One FIFO for both directions: the monitor reads its own answers, for ever, as in QEMU."""
    os.mkfifo(directory / "p")
    await server.open_monitor(f"pipe:{directory}/p")
    await server.serve_unix(path)
    peer = await connect(path)
    await peer.negotiate()
    looping = next(each for each in server._executors if each.client.monitor == "compat_monitor0")
    await until(lambda: looping.session.work > 100)
    for number in range(100):
        reply = await peer.execute(b'{"execute": "echo", "id": %d}' % number)
        assert reply == {"return": {}, "id": number}
