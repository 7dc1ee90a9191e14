"""Bytes to and from one client: a connected socket, or a pair of file descriptors.

A channel reads when the descriptor is readable, writes as much as possible at
once, keeps the rest, and tells its owner.  It knows no protocol.  It does not
use the event loop's transports: those cannot receive file descriptors and are
slower, with a copy and a buffer of a quarter of a megabyte per read.
"""

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Protocol

from qmpserver.monitor.readiness import is_hung_up, pollable, watch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READ_SIZE", "Channel", "Connection", "Owner"]

READ_SIZE = 16384
"""Bytes per read; the limit bounds how long one client can keep the loop busy."""

_MAX_FDS = 16
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * 4)
_RIGHTS_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none


class Owner(Protocol):
    """The receiver of a channel's events.  All calls come from the event loop."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""

    def eof_received(self) -> None:
        """Note that the client will send no more; it may still read."""

    def drained(self) -> None:
        """Note that the client has taken everything that was written."""

    def channel_closed(self) -> None:
        """Note that the channel was closed, by either side; called once."""


class Connection(Protocol):
    """A channel of any kind, as a QMP client needs it; see `Channel`."""

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        ...

    @property
    def unsent(self) -> int:
        """How much was written that the client has not taken yet."""
        ...

    def start(self, owner: Owner) -> None:
        """Start reading, and tell `owner` of everything."""

    def take_fds(self) -> list[int]:
        """Return the file descriptors received last."""
        ...

    def pause(self) -> None:
        """Read nothing until `resume`."""

    def resume(self) -> None:
        """Read again after `pause`."""

    def write(self, data: bytes) -> None:
        """Send whole messages, or a part of a large one; only its last part ends a line."""

    async def flush_until(self, deadline: float) -> None:
        """Wait until all is sent, the channel is closed, or `deadline` (loop time) is over."""

    def close(self) -> None:
        """Close at once."""


class WholeMessages:
    """Joins the parts of large messages, for a `Connection` that sends whole ones."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> bytes:
        """Take what is written, and return all whole messages; empty within a large one."""
        self._parts.append(data)
        if not data.endswith(b"\r\n"):
            return b""
        messages = b"".join(self._parts)
        self._parts.clear()
        return messages


class Channel:
    """One connection.

    Use from the event loop's thread only.

    Args:
        loop: The event loop.
        source: A connected socket, or the descriptor to read from, -1 for none.
        sink: The descriptor to write to, if `source` is a descriptor; -1 for none.
        close_descriptors: Whether descriptors are closed with the channel;
            sockets always are.
    """

    __slots__ = (
        "_closed",
        "_descriptors",
        "_fds",
        "_flushed",
        "_loop",
        "_owner",
        "_polled",
        "_read",
        "_reader",
        "_reading",
        "_sink",
        "_sock",
        "_stop_watch",
        "_unsent",
        "_writing",
        "on_close",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket | int,
        sink: int = -1,
        *,
        close_descriptors: bool = True,
    ) -> None:
        self._loop = loop
        self._owner: Owner | None = None
        self._unsent = bytearray()
        self._reading = self._writing = self._closed = False
        self._descriptors: set[int] = set()
        self._fds: list[int] = []
        self._flushed: asyncio.Future[None] | None = None
        self._stop_watch: Callable[[], None] | None = None
        self._sock: socket.socket | None
        self.on_close: Callable[[], None] | None = None
        self._read: Callable[[], bytes]
        if isinstance(source, socket.socket):
            self._sock = source
            self._reader = self._sink = source.fileno()
            self._read = self._read_rights if source.family == socket.AF_UNIX else self._read_plain
            self._polled = True
        else:
            self._sock = None
            self._reader, self._sink = source, sink
            if close_descriptors:
                self._descriptors = {source, sink} - {-1}
            self._read = self._read_descriptor
            self._polled = source >= 0 and pollable(source)

    def start(self, owner: Owner) -> None:
        """Start reading, and tell `owner` of everything."""
        self._end_watch()
        self._owner = owner
        self.resume()

    def watch(self) -> None:
        """Until `start`, read nothing, but close when the client leaves.

        Raises:
            OSError: The client cannot be watched.
        """
        assert self._sock is not None
        self._stop_watch = watch(self._loop, self._sock, self.close)

    def _end_watch(self) -> None:
        if self._stop_watch is not None:
            self._stop_watch()
            self._stop_watch = None

    @property
    def closed(self) -> bool:
        """Whether the channel is closed; nothing can be read or written then."""
        return self._closed

    @property
    def unsent(self) -> int:
        """Bytes that were written but that the client has not taken yet."""
        return len(self._unsent)

    def take_fds(self) -> list[int]:
        """Return the file descriptors received last; the caller must close them."""
        fds, self._fds = self._fds, []
        return fds

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._reading:
            self._reading = False
            if self._polled:
                self._loop.remove_reader(self._reader)

    def resume(self) -> None:
        """Read again after `pause`."""
        if self._reading or self._closed or self._reader < 0:
            return
        self._reading = True
        if self._polled:
            self._loop.add_reader(self._reader, self._readable)
        else:
            self._loop.call_soon(self._read_file)

    def write(self, data: bytes) -> None:
        """Send `data`, as much as possible at once and the rest later."""
        if self._closed or self._sink < 0 or not data:
            return
        if not self._unsent:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # Commands may still be unread, but nobody would receive the replies.
                self.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._unsent += data
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sink, self._writable)

    async def flush_until(self, deadline: float) -> None:
        """Wait until all is sent, the channel is closed, or `deadline` (loop time) is over."""
        if self._unsent:
            if self._flushed is None:
                self._flushed = self._loop.create_future()
            left = max(0.0, deadline - self._loop.time())
            await asyncio.wait({self._flushed}, timeout=left)

    def _wake_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set_result(None)
            self._flushed = None

    def close(self) -> None:
        """Close at once; unsent bytes are dropped."""
        if self._closed:
            return
        self.pause()
        self._end_watch()
        if self._writing:
            self._loop.remove_writer(self._sink)
        self._closed = True
        self._unsent.clear()
        self._wake_flushed()
        for fd in self.take_fds():
            os.close(fd)
        if self._sock is not None:
            self._sock.close()
        else:
            for fd in self._descriptors:
                os.close(fd)
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.channel_closed()
        if self.on_close is not None:
            self.on_close()

    def shut_down(self) -> None:
        """Close, and end the connection even if another process has the socket open."""
        if self._sock is not None and not self._closed:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def _send(self, data: bytes | bytearray) -> int:
        if self._sock is not None:
            return self._sock.send(data)
        return os.write(self._sink, data)

    def _writable(self) -> None:
        try:
            sent = self._send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._writing = False
            self._loop.remove_writer(self._sink)
            self._wake_flushed()
            if self._owner is not None:
                self._owner.drained()

    def _readable(self) -> None:
        try:
            data = self._read()
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._end_of_input()
        elif self._owner is not None:
            self._owner.data_received(data)

    def _end_of_input(self) -> None:
        self.pause()
        if self._sock is None:
            # The writing side leads somewhere else, where output may still be wanted.
            self._reader = -1
        elif is_hung_up(self._sock):
            self.close()
        elif self._owner is not None:
            self._reader = -1
            self._owner.eof_received()

    def _read_file(self) -> None:
        if self._reading:
            self._readable()
            if self._reading:
                self._loop.call_soon(self._read_file)

    def _read_plain(self) -> bytes:
        assert self._sock is not None
        return self._sock.recv(READ_SIZE)

    def _read_descriptor(self) -> bytes:
        return os.read(self._reader, READ_SIZE)

    def _read_rights(self) -> bytes:
        assert self._sock is not None
        data, ancillary, _, _ = self._sock.recvmsg(READ_SIZE, _ANCILLARY, _RIGHTS_FLAGS)
        if ancillary:
            self._keep_fds(ancillary)
        return data

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        received: list[int] = []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(payload) - len(payload) % 4
                received += memoryview(payload[:whole]).cast("i").tolist()
        if received:
            # As in QEMU, new descriptors replace those that no command took.
            for fd in self.take_fds():
                os.close(fd)
            for fd in received:
                os.set_inheritable(fd, False)
                with contextlib.suppress(OSError):
                    os.set_blocking(fd, True)
            self._fds = received
