"""Devices at work: where clients come from, and how many at a time.

A device hands each client's `Channel` to whatever was attached to it.  It
knows nothing of what is spoken there.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import termios
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.chardev import (
    Chardev,
    FileChardev,
    NullChardev,
    PipeChardev,
    SocketChardev,
    StdioChardev,
)
from qmpserver.monitor.sockets import (
    DeviceError,
    connect,
    describe,
    describe_connected,
    describe_listening,
    listen,
    remove,
    socket_file,
)

__all__ = ["Device", "SocketDevice", "open_device"]

_log = logging.getLogger(__name__)

_BACKLOG = 1024
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


class SocketDevice(Device):
    """A device whose clients are connections."""

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop, where: str) -> None:
        super().__init__(loop, chardev.id, f"disconnected:{where}")
        self._chardev = chardev
        self._where = where
        self._channels: set[Channel] = set()
        self._closed = False

    def yank(self) -> None:
        """Shut all connections, whatever is going on there."""
        for channel in tuple(self._channels):
            channel.shut_down()

    def close(self) -> None:
        """Close also the connections that nothing was ever attached to."""
        super().close()
        for channel in tuple(self._channels):
            channel.close()

    def _start(self) -> None:
        for channel in tuple(self._channels):
            self._hand_out(channel)

    @abstractmethod
    def _lost(self) -> None:
        """Look for another client: one has left."""

    def _use(self, sock: socket.socket) -> None:
        if self._chardev.nodelay and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.filename = describe_connected(sock, self._chardev.server)
        channel = Channel(self._loop, sock)
        self._channels.add(channel)
        channel.on_close = functools.partial(self._left, channel)
        self._connected.set()
        if self.attached:
            self._hand_out(channel)
        else:
            channel.watch()

    def _left(self, channel: Channel) -> None:
        self._channels.discard(channel)
        if not self._channels:
            self.filename = f"disconnected:{self._where}"
        if not self._closed:
            self._lost()


class _Listener(SocketDevice):
    """Accepts clients, as many as may be served; the others wait in the system's queue."""

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop) -> None:
        # QEMU lets one client wait. An asyncio client that finds no place left takes the UNIX
        # socket's EAGAIN for a connection in progress, and fails in odd ways.
        self._sock = listen(chardev.address, _BACKLOG)
        self._file = socket_file(chardev.address)
        self._accepting = False
        super().__init__(chardev, loop, describe_listening(self._sock))
        self._resume()

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
            remove(self._sock, self._file)

    @property
    def _full(self) -> bool:
        return len(self._channels) >= self._chardev.max_clients

    def _resume(self) -> None:
        if not (self._accepting or self._closed or self._full):
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
                # Most likely out of descriptors: who knocks can wait until there is one again.
                # The socket stays readable meanwhile, so it must not be listened to.
                _log.warning("%s: cannot accept a client: %s", self.id, error.strerror)
                self._pause()
                self._loop.call_later(_ACCEPT_AGAIN, self._resume)
                return
            sock.setblocking(False)
            self._use(sock)
            if self._full:
                self._pause()

    def _lost(self) -> None:
        self._resume()


class _Connector(SocketDevice):
    """Connects to somebody who listens, and again when the connection is lost."""

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(chardev, loop, describe(chardev.address))
        self._retry: asyncio.TimerHandle | None = None
        self._complained = False
        if chardev.reconnect_ms:
            self._try()
        else:
            # With one attempt only, its failure is the caller's to know.
            self._use(connect(chardev.address))

    def stop(self) -> None:
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()

    def _try(self) -> None:
        # Names may take long to resolve and hosts to answer: nothing waits for such a thread, not
        # even the end of the program.
        threading.Thread(target=self._connect, name=f"connect-{self.id}", daemon=True).start()

    def _connect(self) -> None:
        result: socket.socket | DeviceError
        try:
            result = connect(self._chardev.address)
        except DeviceError as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(self._tried, result)
        except RuntimeError:  # the loop is closed
            if isinstance(result, socket.socket):
                result.close()

    def _tried(self, result: socket.socket | DeviceError) -> None:
        if isinstance(result, socket.socket):
            if self._closed:
                result.close()
                return
            self._complained = False
            self._use(result)
        elif not self._closed:
            if not self._complained:
                self._complained = True
                _log.warning("Unable to connect character device %s: %s", self.id, result)
            self._lost()

    def _lost(self) -> None:
        if self._chardev.reconnect_ms:
            self._retry = self._loop.call_later(self._chardev.reconnect_ms / 1000, self._try)


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
