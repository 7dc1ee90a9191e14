"""Devices at work: where clients come from, and how many at a time.

A device hands each client's `Channel` to whatever was attached to it.  It
knows nothing of what is spoken there.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import termios
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.chardev import (
    Chardev,
    FileChardev,
    InetAddress,
    NullChardev,
    PipeChardev,
    SocketChardev,
    StdioChardev,
)
from qmpserver.monitor.sockets import DeviceError, connect, describe, file_identity, listen, remove

__all__ = ["Device", "open_device"]

_BACKLOG = 1024
# Out of descriptors: who waits to be accepted can wait until there is one again.
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_AGAIN = 1.0
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # what termios.tcgetattr has where
_COOKED_INPUT = (
    termios.IGNBRK
    | termios.BRKINT
    | termios.PARMRK
    | termios.ISTRIP
    | termios.INLCR
    | termios.IGNCR
    | termios.ICRNL
    | termios.IXON
)
_STDIN = 0
_STDOUT = 1

Attach = Callable[[Channel], None]


class Device(ABC):
    """A device that is open; made by `open_device`.

    Use from the event loop's thread only.

    Attributes:
        id: its name.
        filename: what it is, in the form of QEMU's ``query-chardev``.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, filename: str) -> None:
        self.id = name
        self.filename = filename
        self._loop = loop
        self._attach: Attach | None = None
        self._raw = False
        self._connected = asyncio.Event()

    @property
    def attached(self) -> bool:
        """Whether something speaks on the device."""
        return self._attach is not None

    def attach(self, attach: Attach, *, raw: bool = False) -> None:
        """Hand channels to *attach* from now on.

        Args:
            attach: what takes the channels.
            raw: on a terminal, take each key as it comes, and let *attach* show it.

        Raises:
            DeviceError: the device has a user already.

        """
        if self._attach is not None:
            raise DeviceError(f"Device '{self.id}' is in use")
        self._attach = attach
        self._raw = raw
        self._start()

    async def wait_connected(self) -> None:
        """Wait until the first client has come; at once for what needs none."""
        await self._connected.wait()

    @property
    def waits(self) -> bool:
        """Whether nothing should start before a client has come."""
        return False

    @abstractmethod
    def _start(self) -> None:
        """Begin to hand out channels."""

    @abstractmethod
    def stop(self) -> None:
        """Take no more clients; those there are stay."""

    def close(self) -> None:
        """Give everything back; clients must have left."""
        self.stop()

    def _hand_out(self, channel: Channel) -> None:
        assert self._attach is not None
        self._connected.set()
        self._attach(channel)


def open_device(chardev: Chardev, loop: asyncio.AbstractEventLoop) -> Device:
    """Open what *chardev* describes.

    Raises:
        DeviceError: it can't be opened; the message is QEMU's.

    """
    match chardev:
        case SocketChardev(server=True):
            return _Listener(chardev, loop)
        case SocketChardev():
            return _Connector(chardev, loop)
        case StdioChardev():
            return _Stdio(chardev, loop)
        case FileChardev(path):
            append = os.O_APPEND if chardev.append else os.O_TRUNC
            sink = _open(path, os.O_WRONLY | os.O_CREAT | append)
            return _Descriptors(loop, chardev.id, "file", -1, sink)
        case PipeChardev(path):
            source, sink = _open_pipe(path)
            return _Descriptors(loop, chardev.id, "pipe", source, sink)
        case NullChardev():
            return _Descriptors(loop, chardev.id, "null", -1, -1)


class _Listener(Device):
    """Accepts clients, as many as may be served; the others wait in the system's queue."""

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop) -> None:
        self._chardev = chardev
        # QEMU lets one client wait. An asyncio client that finds no place left takes the UNIX
        # socket's EAGAIN for a connection in progress, and fails in odd ways.
        self._sock = listen(chardev.address, _BACKLOG)
        self._file = file_identity(chardev.address)
        where = describe(chardev.address, True, self._sock)
        super().__init__(loop, chardev.id, f"disconnected:{where}")
        self._where = where
        self._clients = 0
        self._accepting = False
        self._closed = False

    @property
    def address(self) -> Any:
        """The address that the system gave the socket."""
        return self._sock.getsockname()

    @property
    def waits(self) -> bool:
        return self._chardev.wait

    def stop(self) -> None:
        if not self._closed:
            self._pause()
            self._closed = True
            remove(self._chardev.address, self._sock, self._file)

    def _start(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        while self._accepting:
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                self._pause()
                self._loop.call_later(_ACCEPT_AGAIN, self._start)
                return
            sock.setblocking(False)
            if self._chardev.nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients += 1
            if self._clients >= self._chardev.max_clients:
                self._pause()
            self.filename = _connected_filename(self._where, sock)
            channel = Channel(self._loop, sock)
            channel.on_close = self._left
            self._hand_out(channel)

    def _left(self) -> None:
        self._clients -= 1
        if self._clients == 0:
            self.filename = f"disconnected:{self._where}"
        self._start()


class _Connector(Device):
    """Connects to somebody who listens, and again when the connection is lost."""

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop) -> None:
        where = describe(chardev.address, False)
        super().__init__(loop, chardev.id, f"disconnected:{where}")
        self._chardev = chardev
        self._where = where
        self._retry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # With one attempt only, its failure is the caller's to know.
        self._sock = None if chardev.reconnect else connect(chardev.address)

    def stop(self) -> None:
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _start(self) -> None:
        if self._sock is not None:
            sock, self._sock = self._sock, None
            self._use(sock)
        else:
            self._try()

    def _try(self) -> None:
        self._retry = None
        self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        # Names may take long to resolve, and hosts to answer.
        try:
            sock = await asyncio.to_thread(connect, self._chardev.address)
        except DeviceError:
            self._lost()
            return
        if self._closed:
            sock.close()
        else:
            self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        if self._chardev.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.filename = _connected_filename(self._where, sock)
        channel = Channel(self._loop, sock)
        channel.on_close = self._lost
        self._hand_out(channel)

    def _lost(self) -> None:
        self.filename = f"disconnected:{self._where}"
        if self._chardev.reconnect and not self._closed:
            self._retry = self._loop.call_later(self._chardev.reconnect, self._try)


class _Descriptors(Device):
    """Descriptors that are open from the start and make one channel."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, kind: str, source: int, sink: int
    ) -> None:
        super().__init__(loop, name, kind)
        self._source = source
        self._sink = sink
        self._connected.set()

    def stop(self) -> None:
        if not self.attached:
            for fd in {self._source, self._sink} - {-1}:
                os.close(fd)

    def _start(self) -> None:
        for fd in {self._source, self._sink} - {-1}:
            os.set_blocking(fd, False)
        self._hand_out(Channel(self._loop, self._source, self._sink))


class _Stdio(Device):
    """Standard input and output; the terminal, if it is one, is given back as it was."""

    _in_use = False

    def __init__(self, chardev: StdioChardev, loop: asyncio.AbstractEventLoop) -> None:
        if _Stdio._in_use:
            raise DeviceError("cannot use stdio by multiple character devices")
        super().__init__(loop, chardev.id, "stdio")
        self._source, self._sink = _STDIN, _STDOUT
        self._signal = chardev.signal
        self._terminal: list[Any] | None = None
        self._blocking = [(fd, os.get_blocking(fd)) for fd in (self._source, self._sink)]
        self._connected.set()
        _Stdio._in_use = True

    def stop(self) -> None:
        """Leave the terminal to the client that may still be there."""

    def close(self) -> None:
        if _Stdio._in_use:
            _Stdio._in_use = False
            # Descriptors may be shared with the shell, which expects them to block.
            for fd, blocking in self._blocking:
                with contextlib.suppress(OSError):
                    os.set_blocking(fd, blocking)
            if self._terminal is not None:
                self._loop.remove_signal_handler(signal.SIGCONT)
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(self._source, termios.TCSANOW, self._terminal)

    def _start(self) -> None:
        for fd, _ in self._blocking:
            os.set_blocking(fd, False)
        if os.isatty(self._source):
            self._terminal = termios.tcgetattr(self._source)
            self._set_up_terminal()
            # While this process was suspended, the shell had the terminal.
            self._loop.add_signal_handler(signal.SIGCONT, self._set_up_terminal)
        self._hand_out(Channel(self._loop, self._source, self._sink, close_descriptors=False))

    def _set_up_terminal(self) -> None:
        assert self._terminal is not None
        mode = [*self._terminal[:6], list(self._terminal[6])]
        if self._raw:
            mode[_IFLAG] &= ~_COOKED_INPUT
            mode[_OFLAG] |= termios.OPOST
            mode[_CFLAG] &= ~(termios.CSIZE | termios.PARENB)
            mode[_CFLAG] |= termios.CS8
            mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
            mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        if not self._signal:
            mode[_LFLAG] &= ~termios.ISIG
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._source, termios.TCSANOW, mode)


def _connected_filename(where: str, sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return where
    (host, port, *_), (peer, peer_port, *_) = sock.getsockname(), sock.getpeername()
    server = ",server=on" if where.endswith(",server=on") else ""
    here = describe(InetAddress(host, str(port)), False)
    there = describe(InetAddress(peer, str(peer_port)), False).removeprefix("tcp:")
    return f"{here}{server} <-> {there}"


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DeviceError(f"Could not open '{path}': {os.strerror(error.errno or 0)}") from error


def _open_pipe(path: str) -> tuple[int, int]:
    try:
        source = _open(f"{path}.in", os.O_RDWR)
    except DeviceError:
        return (both := _open(path, os.O_RDWR)), both
    try:
        return source, _open(f"{path}.out", os.O_RDWR)
    except DeviceError:
        os.close(source)
        return (both := _open(path, os.O_RDWR)), both
