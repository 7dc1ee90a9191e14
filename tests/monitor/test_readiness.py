"""Watching a client without reading, and what event loops wait for: with epoll and without."""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from qmpserver.monitor.readiness import pollable, watch
from tests.monitor.conftest import until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["epoll", "peek"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test as on Linux, and as on a system without epoll."""
    name: str = request.param
    if name == "epoll" and not hasattr(select, "epoll"):
        pytest.skip("there is no epoll here")
    if name == "peek":
        # The loop has its own already.
        monkeypatch.delattr(select, "epoll", raising=False)
    return name


@pytest.fixture
def pair() -> Pair:
    here, there = socket.socketpair()
    here.setblocking(False)
    return here, there


async def turns(count: int = 5) -> None:
    """Let the loop look at its descriptors."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_peer_that_leaves(way: str, pair: Pair) -> None:
    here, there = pair
    left: list[None] = []
    with here:
        end = watch(asyncio.get_running_loop(), here, lambda: left.append(None))
        await turns()
        assert not left
        there.close()
        await until(lambda: left)
        end()


async def test_a_peer_that_breaks_the_connection(way: str) -> None:
    left: list[None] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
        here.setblocking(False)
        with here:
            end = watch(asyncio.get_running_loop(), here, lambda: left.append(None))
            # A reset instead of the end of the stream.
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            there.close()
            await until(lambda: left)
            end()


async def test_nothing_is_read(way: str, pair: Pair) -> None:
    here, there = pair
    left: list[None] = []
    with here, there:
        end = watch(asyncio.get_running_loop(), here, lambda: left.append(None))
        there.sendall(b"early")
        await turns()
        end()
        assert not left
        assert here.recv(10) == b"early"


async def test_a_peer_that_sends_and_leaves(way: str, pair: Pair) -> None:
    """Without epoll the loop does not wait for the socket meanwhile: it would spin."""
    here, there = pair
    left: list[None] = []
    loop = asyncio.get_running_loop()
    with here:
        end = watch(loop, here, lambda: left.append(None))
        there.sendall(b"early")
        await turns()
        assert not loop.remove_reader(here)
        assert not left
        there.close()
        await until(lambda: left)
        end()
        assert here.recv(10) == b"early"


async def test_a_watch_that_was_ended(way: str, pair: Pair) -> None:
    here, there = pair
    left: list[None] = []
    with here:
        watch(asyncio.get_running_loop(), here, lambda: left.append(None))()
        there.close()
        await turns()
        assert not left


def _file(directory: Path) -> int:
    return os.open(directory / "file", os.O_RDWR | os.O_CREAT)


def _pipe(_: Path) -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def _terminal(_: Path) -> int:
    master, slave = os.openpty()
    os.close(slave)
    return master


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        (_file, False),
        (lambda _: os.open(os.devnull, os.O_RDWR), False),
        (_pipe, True),
        (_terminal, True),
        (lambda _: socket.socket().detach(), True),
    ],
    ids=["file", "null", "pipe", "terminal", "socket"],
)
def test_pollable(way: str, opened: Callable[[Path], int], expected: bool, tmp_path: Path) -> None:
    fd = opened(tmp_path)
    assert pollable(fd) is expected
    os.close(fd)
