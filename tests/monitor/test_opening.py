"""Opening monitors: listening addresses; slow names and slow hosts do not block the loop."""

import asyncio
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import qmpserver
import qmpserver.monitor.opening
from qmpserver.keyval import OptionError
from qmpserver.monitor import DeviceError, InetAddress, Server, UnixAddress
from tests.monitor.conftest import until

if TYPE_CHECKING:
    from tests.monitor.conftest import Connect

PATIENCE = 10.0


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that threads wait for; set at the end, in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


async def serves(server: Server, directory: Path, connect: "Connect") -> None:
    """Check that a client is served now."""
    await server.serve_unix(directory / "other")
    peer = await connect(directory / "other")
    await peer.negotiate()
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}


async def test_unix(server: Server, directory: Path, connect: "Connect") -> None:
    device = await server.serve_unix(directory / "q", max_clients=2, pretty=True)
    assert device.address == str(directory / "q")
    with pytest.raises(ValueError, match="is a UNIX socket and has no port"):
        _ = device.port
    for _ in range(2):
        assert await (await connect(device.address)).line() == b"{\r\n"


async def test_tcp(server: Server, connect: "Connect") -> None:
    device = await server.serve_tcp("127.0.0.1", 0, max_clients=2)
    assert device.address == ("127.0.0.1", device.port)
    for _ in range(2):
        await (await connect(("127.0.0.1", device.port))).negotiate()
    with pytest.raises(DeviceError, match="Failed to find an available port"):
        await server.serve_tcp("127.0.0.1", device.port)


async def test_one_client_unless_more_are_allowed(server: Server, connect: "Connect") -> None:
    device = await server.serve_tcp("127.0.0.1", 0)
    await (await connect(device.address)).negotiate()
    second = await connect(device.address)
    second.send(b" ")
    assert server.clients == 1
    with pytest.raises(ValueError, match="max_clients is 0, must be >= 1"):
        await server.serve_tcp("127.0.0.1", 0, max_clients=0)


async def test_a_path_that_is_empty(server: Server) -> None:
    """The kernel would choose an abstract name, open to every user."""
    with pytest.raises(DeviceError, match="a UNIX socket needs a path"):
        await server.serve_unix("")


async def test_a_monitor_that_is_refused_leaves_no_device(server: Server, directory: Path) -> None:
    before = descriptors()
    for mode in ("readline", "other"):
        with pytest.raises(OptionError):
            await server.serve_unix(directory / "q", mode=mode)
    assert server.devices == []
    assert descriptors() == before


async def test_a_name_that_takes_long_to_resolve(
    server: Server,
    directory: Path,
    connect: "Connect",
    monkeypatch: pytest.MonkeyPatch,
    gate: threading.Event,
) -> None:
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        gate.wait(PATIENCE)
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    opening = asyncio.create_task(server.serve_tcp("localhost", 0))
    await serves(server, directory, connect)
    assert not opening.done()
    gate.set()
    assert (await opening).port > 0


def join_listening() -> None:
    """Wait for the threads that make listening sockets; they may have ended already."""
    for thread in threading.enumerate():
        if thread.name == "listen":
            thread.join()


@pytest.mark.parametrize("late", [False, True])
async def test_opening_that_is_cancelled(
    server: Server, monkeypatch: pytest.MonkeyPatch, gate: threading.Event, late: bool
) -> None:
    """Whether the socket is there already, and only the caller does not know it yet, or not."""
    real = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        gate.wait(PATIENCE)
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    before = descriptors()
    opening = asyncio.create_task(server.serve_tcp("127.0.0.1", 0))
    await asyncio.sleep(0)
    if late:
        gate.set()
        # With the loop standing still, the thread ends and leaves its result to the loop.
        join_listening()
        asyncio.get_running_loop().call_soon(opening.cancel)
    else:
        opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.set()
    # The thread may only now create the socket that is to be discarded.
    await until(lambda: not any(t.name == "listen" for t in threading.enumerate()))
    await until(lambda: descriptors() == before)
    assert server.devices == []


async def test_a_directory_that_is_locked(
    server: Server, directory: Path, connect: "Connect"
) -> None:
    """Others are served while a stale socket cannot be replaced yet; then it is."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "stale"))
    lock = os.open(directory, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    opening = asyncio.create_task(server.serve_unix(directory / "stale"))
    await serves(server, directory, connect)
    assert not opening.done()
    os.close(lock)
    await opening
    await (await connect(directory / "stale")).negotiate()


async def test_opening_that_is_cancelled_leaves_no_file(server: Server, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "stale"))
    opening = asyncio.create_task(server.serve_unix(directory / "stale"))
    await asyncio.sleep(0)
    # With the loop standing still, the thread ends and leaves its result to the loop.
    join_listening()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: not (directory / "stale").exists())


async def test_a_host_that_does_not_answer(
    server: Server, directory: Path, connect: "Connect"
) -> None:
    """Connecting to a UNIX socket blocks while its backlog is full."""
    with socket.socket(socket.AF_UNIX) as manager, socket.socket(socket.AF_UNIX) as first:
        manager.bind(str(directory / "m"))
        manager.listen(0)
        first.connect(str(directory / "m"))
        opening = asyncio.create_task(server.open_monitor(f"unix:{directory}/m"))
        await serves(server, directory, connect)
        assert not opening.done()
        manager.accept()[0].close()
        assert (await opening).filename == f"unix:{directory}/m"


async def test_a_fifo_without_a_reader(server: Server, directory: Path, connect: "Connect") -> None:
    os.mkfifo(directory / "fifo")
    opening = asyncio.create_task(server.open_monitor(f"file:{directory}/fifo"))
    await serves(server, directory, connect)
    assert not opening.done()
    reader = os.open(directory / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    await opening
    assert b"QMP" in os.read(reader, 4096)
    os.close(reader)


async def test_an_id_is_taken_while_its_device_opens(
    server: Server, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    def slow(*_args: Any) -> int:
        gate.wait(PATIENCE)
        return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(qmpserver.monitor.opening, "open_file", slow)
    opening = asyncio.create_task(server.add_chardev("file,id=c,path=x"))
    await asyncio.sleep(0)
    with pytest.raises(OptionError, match="Duplicate ID 'c' for chardev"):
        await server.add_chardev("null,id=c")
    gate.set()
    await opening
    assert [device.id for device in server.devices] == ["c"]


async def test_a_device_may_be_closed_before_its_server(
    server: Server, directory: Path, connect: "Connect"
) -> None:
    before = descriptors()
    socket_device = await server.serve_unix(directory / "q")
    file = await server.open_monitor(f"file:{directory}/f")
    unused = await server.add_chardev(f"file,id=c,path={directory}/c")
    peer = await connect(directory / "q")
    await peer.negotiate()
    for device in (socket_device, file, unused, unused):
        device.close()
    assert await peer.ends() == b""
    await server.close()
    peer.close()
    await peer.writer.wait_closed()
    assert descriptors() == before


async def test_the_deprecated_name(server: Server, directory: Path, connect: "Connect") -> None:
    for where, path in (
        (UnixAddress(str(directory / "a")), directory / "a"),
        (f"unix:{directory}/b,server=on,wait=off", directory / "b"),
    ):
        with pytest.warns(DeprecationWarning, match=r"use serve_unix\(\), serve_tcp\(\)") as told:
            await server.listen(where, max_clients=2)
        assert told[0].filename == __file__
        for _ in range(2):
            await (await connect(path)).negotiate()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        device = await server.listen(InetAddress("127.0.0.1", "0"), pretty=True)
    assert await (await connect(device.address)).line() == b"{\r\n"  # type: ignore[attr-defined]


def test_deprecated_names() -> None:
    for module, name, now in (
        (qmpserver, "QMPError", qmpserver.CommandError),
        (qmpserver.qmp, "QMPError", qmpserver.CommandError),
        (qmpserver, "UnixAddress", UnixAddress),
        (qmpserver, "InetAddress", InetAddress),
    ):
        with pytest.warns(DeprecationWarning, match=f"{module.__name__}.{name} is deprecated"):
            assert getattr(module, name) is now
        assert name not in module.__all__
