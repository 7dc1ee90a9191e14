"""The backends of character devices that are real: terminals, sockets that listen, files, rings.

Other backends need no peer, so nothing is opened for them.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tty
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.monitor import DeviceError, FdAddress, InetAddress, SocketChardev, UnixAddress
from qmpserver.monitor.descriptors import open_file
from qmpserver.monitor.socket_devices import BACKLOG, Listener
from qmpserver.monitor.sockets import listen
from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from qmpserver.standin.state import State

_RING = 1 << 16  # bytes, unless the backend says
_LARGEST_RING = 1 << 20


class Backend(Protocol):
    """An open backend; `filename` is as in `query-chardev`."""

    filename: str

    def close(self) -> None:
        """Release it."""


class _Descriptor:
    """A backend that is an open descriptor; nobody reads what others write to it."""

    def __init__(self, filename: str, fd: int) -> None:
        self.filename = filename
        self.close = weakref.finalize(self, os.close, fd)


class Ring:
    """The last bytes that were written, as many as fit, until they are read."""

    filename = "ringbuf"

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = bytearray()

    def write(self, data: bytes) -> None:
        """Add bytes; the oldest ones go where there is no room."""
        self._bytes += data
        del self._bytes[: max(len(self._bytes) - self._size, 0)]

    def read(self, size: int) -> bytes:
        """Take up to `size` bytes."""
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken

    def close(self) -> None:
        """Do nothing: it is memory."""


def open_backend(state: State, name: str, backend: dict[str, Any]) -> Backend | None:
    """Open a backend; return None for one that is not real.

    Raises:
        DeviceError: It cannot be opened.
        CommandError: A descriptor that it names does not exist.
    """
    data = as_object(backend.get("data"))
    match backend.get("type"):
        case "pty":
            return _open_pty()
        case "socket":
            return _open_socket(state, name, data)
        case "file":
            return _open_file(state, data)
        case "ringbuf" | "memory":
            size = data.get("size") or _RING
            if size < 0 or size & (size - 1):
                raise DeviceError("size of ringbuf chardev must be power of two")
            return Ring(min(size, _LARGEST_RING))
    return None


def _open_pty() -> Backend:
    try:
        controller, terminal = os.openpty()
    except OSError as error:
        raise CommandError(f"Failed to create PTY: {error.strerror}") from None
    path = os.ttyname(terminal)
    tty.setraw(terminal)
    os.close(terminal)
    return _Descriptor(f"pty:{path}", controller)


def _open_socket(state: State, name: str, data: dict[str, Any]) -> Backend | None:
    server = data.get("server", True)
    if not server and "wait" in data:
        raise DeviceError("'wait' option is incompatible with socket in client connect mode")
    address = as_object(data.get("addr"))
    where = as_object(address.get("data"))
    if address.get("type") == "fd":
        if not server and state.in_setup:
            return None  # a command line's connection is its peer's
        fd = state.take_fd(str(where.get("str")))
        if not server:
            return _Descriptor(f"fd:{fd}", fd)
        return _listening(name, FdAddress(fd))
    if not server:
        return None
    if address.get("type") == "unix":
        switches = where.get("abstract", False), where.get("tight", True)
        return _listening(name, UnixAddress(str(where["path"]), *switches))
    if address.get("type") == "inet":
        host, port, to = str(where["host"]), str(where["port"]), where.get("to")
        switches = where.get("ipv4"), where.get("ipv6")
        return _listening(name, InetAddress(host, port, to, *switches))
    return None  # of VSOCK


def _listening(name: str, address: UnixAddress | InetAddress | FdAddress) -> Backend:
    described = SocketChardev(address, server=True, id=name)
    return Listener(described, asyncio.get_running_loop(), listen(address, BACKLOG))


def _open_file(state: State, data: dict[str, Any]) -> Backend | None:
    path = str(data["out"])
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return None  # opening would wait for its reader
    except (OSError, ValueError):
        pass  # it is made, or refused, below
    source = data.get("in")
    if source is not None and not os.path.exists(source):
        raise DeviceError(f"Could not open '{source}': No such file or directory")
    try:
        fd = open_file(path, data.get("append", False), state.host.fds)
    except ValueError as error:  # a zero byte in the name
        raise DeviceError(f"Could not open '{path}': {error}") from None
    return _Descriptor("file", fd)
