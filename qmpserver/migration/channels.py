"""Descriptors that carry a migration: opened for an address, written to and read from.

Control frames go through here; the native stream uses the same descriptors, at other times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.migration import wire
from qmpserver.migration.address import (
    ExecAddress,
    FdAddress,
    FileAddress,
    TcpAddress,
    UnixAddress,
)
from qmpserver.monitor.background import call_in_thread
from qmpserver.monitor.chardev import InetAddress
from qmpserver.monitor.chardev import UnixAddress as UnixSocket
from qmpserver.monitor.fds import is_set
from qmpserver.monitor.opening import listen_on
from qmpserver.monitor.sockets import connect, remove, socket_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qmpserver.migration.address import Address
    from qmpserver.monitor.fds import Passed

BACKLOG = 256  # the most data channels, and the main one
LOOK_S = 0.1  # between two looks whether a peer has hung up


class Channel:
    """A descriptor that is a migration's, non-blocking where it can be.

    Args:
        fd: The descriptor, which the channel owns from now on, also if this raises.
        process: The process at the other end, if this program has started it.

    Attributes:
        fd: As above; -1 when it is closed.
        two_way: Whether the peer can answer.
    """

    def __init__(self, fd: int, process: asyncio.subprocess.Process | None = None) -> None:
        self.fd = fd
        self._process = process
        try:
            self.two_way = stat.S_ISSOCK(os.fstat(fd).st_mode)
            os.set_blocking(fd, False)
        except OSError:
            self.close()
            raise
        if self.two_way:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # it may be no TCP

    async def send(self, kind: str, **members: Any) -> None:
        """Write a control frame.

        Raises:
            OSError: The descriptor failed.
            StreamError: The peer is gone.
        """
        left = memoryview(wire.encode(kind, **members))
        while left:
            try:
                left = left[os.write(self.fd, left) :]
            except BlockingIOError:
                await _ready(self.fd, writing=True)
            except ConnectionError:
                raise wire.StreamError(wire.GONE) from None

    async def receive(
        self, size: int | None = None, *, most: int = wire.MAX_PAYLOAD
    ) -> dict[str, Any]:
        """Read a control frame, or only its payload of `size` bytes; its payload has `most`.

        Raises:
            OSError: The descriptor failed.
            StreamError: The peer is gone, or does not keep to the format.
        """
        if size is None:
            size = wire.payload_size(await self._read(wire.HEADER.size), most)
        return wire.decode(await self._read(size))

    async def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                chunk = os.read(self.fd, min(size - len(data), 1 << 20))
            except BlockingIOError:
                await _ready(self.fd, writing=False)
                continue
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise wire.StreamError(wire.GONE)
            data += chunk
        return bytes(data)

    @property
    def hung_up(self) -> bool:
        """Whether the peer of a socket has hung up, also if not all that it sent was read."""
        poll = select.poll()
        poll.register(self.fd, select.POLLRDHUP)
        return bool(poll.poll(0))

    @contextlib.asynccontextmanager
    async def unless_hung_up(self) -> AsyncIterator[None]:
        """End the block with an error if the peer of this socket hangs up.

        Raises:
            StreamError: It has.
        """

        async def look(limit: asyncio.Timeout) -> None:
            while True:
                if self.hung_up:
                    limit.reschedule(asyncio.get_running_loop().time())
                    return
                await asyncio.sleep(LOOK_S)

        try:
            async with asyncio.timeout(None) as limit:
                looking = asyncio.ensure_future(look(limit))
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError:
            if limit.expired():
                raise wire.StreamError(wire.GONE) from None
            raise

    @property
    def position(self) -> int:
        """The position in a file, in bytes."""
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def seek(self, position: int) -> None:
        """Go to a position in a file.

        Raises:
            OSError: It is no file, or too short.
        """
        os.lseek(self.fd, position, os.SEEK_SET)

    def close(self) -> None:
        """Close the descriptor if it is open; end a process that is still there."""
        self._close_descriptor()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def _close_descriptor(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    async def finish(self) -> None:
        """Wait until a process at the other end has read everything.

        Raises:
            StreamError: It failed.
        """
        if self._process is None:
            return
        self._close_descriptor()
        status = await self._process.wait()
        if status:
            raise wire.StreamError(f"the command of exec: ended with status {status}")


async def open_channel(address: Address, passed: Passed) -> Channel:
    """Open the outgoing side of `address`.

    Args:
        address: The destination.
        passed: What was passed to this program.

    Raises:
        DeviceError, OSError: It cannot be opened.
        CommandError: No client has passed such a descriptor.
    """
    match address:
        case UnixAddress() | TcpAddress():
            target = _socket_address(address)
            connecting = partial(connect, target)
            sock = await call_in_thread("migrate-connect", connecting, socket.socket.close)
            return Channel(sock.detach())
        case FdAddress(name):
            return Channel(passed.take(name))
        case ExecAddress(argv):
            return await _run_command(argv, writing=True)
        case FileAddress(path, offset):
            return await _open_file(path, offset, passed, writing=True)


async def accept_one(address: Address, passed: Passed) -> Channel:
    """Open the incoming side of an `address` that is not listened on; see `open_channel`."""
    match address:
        case FdAddress(name):
            return Channel(passed.take(name))
        case ExecAddress(argv):
            return await _run_command(argv, writing=False)
        case FileAddress(path, offset):
            return await _open_file(path, offset, passed, writing=False)
        case _:
            raise AssertionError("a socket address has a listener")


class Listener:
    """A socket that waits for the source's connections."""

    def __init__(self, sock: socket.socket, address: UnixAddress | TcpAddress) -> None:
        self._sock = sock
        self._file = socket_file(_socket_address(address))

    @classmethod
    async def listen(cls, address: UnixAddress | TcpAddress) -> Listener:
        """Listen on `address`.

        Raises:
            DeviceError: It is not possible.
        """
        return cls(await listen_on(_socket_address(address), BACKLOG), address)

    def addresses(self) -> list[dict[str, Any]]:
        """Return its addresses as `query-migrate` shows them."""
        name = self._sock.getsockname()
        if self._sock.family == socket.AF_UNIX:
            return [{"type": "unix", "path": os.fsdecode(name)}]
        family = "ipv6" if self._sock.family == socket.AF_INET6 else "ipv4"
        return [{"type": "inet", "host": name[0], "port": str(name[1]), family: True}]

    async def accept(self) -> Channel:
        """Wait for a connection; if it is cancelled, connections stay in the backlog.

        The event loop's `sock_accept` may lose one then.
        """
        while True:
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                await _ready(self._sock.fileno(), writing=False)
            else:
                return Channel(sock.detach())

    def close(self) -> None:
        """Close the socket and remove its file."""
        remove(self._sock, self._file)


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait until a descriptor can be read or written."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    (loop.add_writer if writing else loop.add_reader)(fd, ready.set)
    try:
        await ready.wait()
    finally:
        (loop.remove_writer if writing else loop.remove_reader)(fd)


def _socket_address(address: UnixAddress | TcpAddress) -> UnixSocket | InetAddress:
    if isinstance(address, UnixAddress):
        abstract = address.path.startswith("\0")
        return UnixSocket(address.path.removeprefix("\0"), abstract)
    return InetAddress(address.host, address.port, address.to, address.ipv4, address.ipv6)


async def _run_command(argv: tuple[str, ...], *, writing: bool) -> Channel:
    """Start a command; `writing` to its standard input, or reading its standard output."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (sink, source) if writing else (source, sink)
    try:
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=theirs if writing else null, stdout=None if writing else theirs
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Channel(ours, process)


async def _open_file(path: str, offset: int, passed: Passed, *, writing: bool) -> Channel:
    """Open a file, or take it from a set; in a thread: a FIFO or a network's disk may take long.

    One that is written to ends at `offset` then.
    """
    flags = os.O_WRONLY | os.O_CREAT if writing else os.O_RDONLY
    member = passed.duplicate(path, flags) if is_set(path) else None
    if writing:
        flags = os.O_RDWR | os.O_CREAT  # a FIFO waits for no reader then

    def opening() -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o660) if member is None else member
        try:
            if writing and stat.S_ISREG(os.fstat(fd).st_mode):
                os.ftruncate(fd, offset)
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
        except OSError:
            os.close(fd)
            raise
        return fd

    return Channel(await call_in_thread("migrate-open", opening, os.close))
