"""Sockets as devices: one listens for clients, the other connects to a single one."""

import asyncio
import contextlib
import functools
import logging
import socket
from abc import abstractmethod
from typing import Any

from qmpserver.monitor.background import start_in_thread
from qmpserver.monitor.channel import Channel
from qmpserver.monitor.chardev import SocketChardev
from qmpserver.monitor.device import Device
from qmpserver.monitor.sockets import (
    connect,
    describe,
    describe_connected,
    describe_listening,
    is_connected,
    remove,
    socket_file,
)

__all__ = ["BACKLOG", "Connector", "Listener", "SocketDevice"]

_log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted.

QEMU lets one wait. An asyncio client that finds the backlog full takes the UNIX socket's
EAGAIN for a connection in progress, and fails in odd ways.
"""

ACCEPTED = 8
"""Clients that are accepted before others are served."""

_ACCEPT_AGAIN = 1.0  # seconds


class SocketDevice(Device):
    """A device whose clients are connections.

    Use from the event loop's thread only.
    """

    def __init__(self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop, where: str) -> None:
        super().__init__(loop, chardev.id, f"disconnected:{where}")
        self._chardev = chardev
        self._where = where
        self._channels: set[Channel] = set()
        self._closed = False

    def shown(self, peers: bool) -> str:
        """Return `filename`; without `peers`, not with the address of a UNIX socket's other end."""
        unnamed = self.filename.startswith("unix:") and not (peers or self._chardev.server)
        return "unix:" if unnamed else self.filename

    def yank(self) -> None:
        """Shut down all connections at once."""
        for channel in tuple(self._channels):
            channel.shut_down()

    def close(self) -> None:
        """Accept no more clients, and close all connections."""
        super().close()
        for channel in tuple(self._channels):
            channel.close()

    def _start(self) -> None:
        for channel in tuple(self._channels):
            self._hand_out(channel)

    @abstractmethod
    def _lost(self) -> None:
        """Look for another client, because one has left."""

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
            return
        try:
            channel.watch()
        except OSError as error:  # most likely out of descriptors
            _log.warning("%s: cannot watch a client, disconnected: %s", self.id, error.strerror)
            channel.close()

    def _left(self, channel: Channel) -> None:
        self._channels.discard(channel)
        if not self._channels:
            self.filename = f"disconnected:{self._where}"
        if not self._closed:
            self._lost()


class Listener(SocketDevice):
    """A listening socket: accepts as many clients as it may serve; others stay in the backlog.

    Use from the event loop's thread only.
    """

    def __init__(
        self, chardev: SocketChardev, loop: asyncio.AbstractEventLoop, sock: socket.socket
    ) -> None:
        super().__init__(chardev, loop, describe_listening(sock))
        self._sock = sock
        self._file = socket_file(chardev.address)
        self._accepting = False
        self._filler: socket.socket | None = None  # what fills the backlog
        self._resume()

    @property
    def address(self) -> Any:
        """The address that the socket is bound to, as `socket.socket.getsockname` returns it."""
        return self._sock.getsockname()

    @property
    def port(self) -> int:
        """The TCP port that the socket is bound to.

        Raises:
            ValueError: It is a UNIX socket.
        """
        if self._sock.family == socket.AF_UNIX:
            raise ValueError(f"device '{self.id}' is a UNIX socket and has no port")
        port: int = self.address[1]
        return port

    @property
    def waits(self) -> bool:
        """Whether nothing should start before the first client has connected."""
        return self._chardev.wait

    def stop(self) -> None:
        """Listen no more, and remove the file of a UNIX socket."""
        if not self._closed:
            self._pause()
            self._closed = True
            self._drop_filler()
            remove(self._sock, self._file)

    def fill_backlog(self, seconds: float) -> None:
        """Let nobody connect for a time, as a server that never accepts; for tests of clients.

        Connecting to a UNIX socket blocks then, or fails with EAGAIN.
        """
        self._pause()
        self._sock.listen(0)  # one connection fits in
        self._filler = socket.socket(self._sock.family)
        self._filler.setblocking(False)
        with contextlib.suppress(OSError):  # full already; or TCP's, which does not wait
            self._filler.connect(self._sock.getsockname())
        self._loop.call_later(seconds, self._empty_backlog)

    def _empty_backlog(self) -> None:
        if self._closed or self._filler is None:
            return
        if is_connected(self._filler):
            self._sock.accept()[0].close()
        self._drop_filler()
        self._sock.listen(BACKLOG)
        self._resume()

    def _drop_filler(self) -> None:
        if self._filler is not None:
            self._filler.close()
            self._filler = None

    @property
    def _full(self) -> bool:
        return len(self._channels) >= self._chardev.max_clients

    def _resume(self) -> None:
        if not (self._accepting or self._closed or self._full or self._filler):
            self._accepting = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _accepted in range(ACCEPTED):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Most likely out of descriptors. The socket stays readable, so the loop must not
                # watch it for a while; further connections stay in the backlog.
                _log.warning("%s: cannot accept a client: %s", self.id, error.strerror)
                self._pause()
                self._loop.call_later(_ACCEPT_AGAIN, self._resume)
                return
            sock.setblocking(False)
            self._use(sock)
            if self._full:
                self._pause()
                return

    def _lost(self) -> None:
        self._resume()


class Connector(SocketDevice):
    """A connection to a listening client, made again when it is lost.

    Args:
        chardev: Its description.
        loop: The event loop.
        sock: The connection; None to connect, until an attempt succeeds.
    """

    def __init__(
        self,
        chardev: SocketChardev,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket | None = None,
    ) -> None:
        super().__init__(chardev, loop, describe(chardev.address))
        self._retry: asyncio.TimerHandle | None = None
        self._warned = False
        if sock is None:
            self._try()
        else:
            self._use(sock)

    def stop(self) -> None:
        """Connect no more."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()

    def _try(self) -> None:
        connecting = functools.partial(connect, self._chardev.address)
        attempt = start_in_thread(f"connect-{self.id}", connecting, socket.socket.close)
        attempt.add_done_callback(self._tried)

    def _tried(self, attempt: "asyncio.Future[socket.socket]") -> None:
        error = attempt.exception()
        if error is None:
            sock = attempt.result()
            if self._closed:
                sock.close()
            else:
                self._warned = False
                self._use(sock)
        elif not self._closed:
            if not self._warned:
                self._warned = True
                _log.warning("Unable to connect character device %s: %s", self.id, error)
            self._lost()

    def _lost(self) -> None:
        if self._chardev.reconnect_ms:
            self._retry = self._loop.call_later(self._chardev.reconnect_ms / 1000, self._try)
