"""The descriptors of a migration: a channel owns its own, and closes it once."""

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from qmpserver.migration.address import ExecAddress, FdAddress, FileAddress, UnixAddress
from qmpserver.migration.channels import Channel, Listener, accept_one, open_channel
from qmpserver.monitor.fds import FileDescriptors, Passed


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def passed(fd: int | None = None) -> Passed:
    """What was passed: nothing, or one descriptor, under any name."""

    def take(name: str) -> int:
        assert fd is not None
        return fd

    return Passed(take, FileDescriptors().duplicate)


async def test_a_channel_is_closed_once() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach())
    with theirs:
        fd = channel.fd
        channel.close()
        stranger = os.dup2(theirs.fileno(), fd)  # the number is somebody else's now
        channel.close()
        assert is_open(stranger)
        os.close(stranger)


async def test_a_command_has_read_everything_and_no_descriptor_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = await open_channel(ExecAddress(("cat",)), passed())
    fd = channel.fd

    def no_more(*_args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_more)
        await channel.finish()
    assert not is_open(fd)
    os.dup2(0, fd)
    channel.close()
    assert is_open(fd)
    os.close(fd)


async def test_a_connection_that_comes_as_accepting_is_cancelled(tmp_path: Path) -> None:
    """It is not lost: the next call accepts it."""
    listener = await Listener.listen(UnixAddress(f"{tmp_path}/s"))
    accepting = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        # In the turn of the event loop in which it notices the connection, and before it does.
        asyncio.get_running_loop().call_soon(accepting.cancel)
        await asyncio.wait({accepting})
        assert accepting.cancelled()
        async with asyncio.timeout(10):
            channel = await listener.accept()
        channel.close()
    listener.close()


async def test_a_descriptor_that_cannot_be_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that has passed it does not have it any more."""
    fd = os.dup(0)

    def refuse_mode(fd: int, blocking: bool) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "set_blocking", refuse_mode)
    with pytest.raises(OSError, match="no"):
        await open_channel(FdAddress("a"), passed(fd))
    assert not is_open(fd)


async def test_a_file_in_a_set(tmp_path: Path) -> None:
    """Each side finds the member that it can use, at the offset, and the set keeps its own."""
    path = tmp_path / "m"
    path.write_bytes(b"x" * 8192)
    store = FileDescriptors()
    for flags in (os.O_RDONLY, os.O_WRONLY):
        store.add(os.open(path, flags), 3, None)
    address = FileAddress("/dev/fdset/3", 4096)
    fds = Passed(store.take_named, store.duplicate)
    channel = await open_channel(address, fds)
    await channel.send("hello", word=1)
    channel.close()
    assert path.read_bytes().startswith(b"x" * 4096)
    assert path.stat().st_size < 8192
    channel = await accept_one(address, fds)
    assert await channel.receive() == {"type": "hello", "word": 1}
    channel.close()
    assert all(is_open(member.fd) for member in store.sets[3])
    store.close()
