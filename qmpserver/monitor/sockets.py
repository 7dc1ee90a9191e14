"""Listening and connected sockets, made as QEMU makes them, with QEMU's error messages.

Event loop and protocol are not known here: an address goes in, a socket comes out.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from qmpserver.keyval import OptionError
from qmpserver.monitor.chardev import Address, FdAddress, InetAddress, UnixAddress

__all__ = [
    "DeviceError",
    "connect",
    "describe",
    "describe_connected",
    "describe_listening",
    "is_connected",
    "listen",
    "remove",
    "socket_file",
]

# macOS and the BSDs have shorter addresses and no names outside the file system.
_LINUX = sys.platform == "linux"
_PATH_ROOM = 108 if _LINUX else 104
_MODE = 0o600
_LOCK_PATIENCE = 10.0  # seconds
_LOCK_AGAIN = 0.01  # seconds


class DeviceError(OptionError):
    """A device cannot be opened; the message is QEMU's, with the system's reason."""


def listen(address: Address, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens on `address`.

    It may block while a host name is resolved, or while another process replaces a socket in
    the same directory.  The file of a UNIX socket has mode 0600, less the umask.  A file left
    behind by a server that has ended is replaced, a socket in use is not: of several processes
    that listen on one path at once, exactly one succeeds.

    Raises:
        DeviceError: It is not possible; the message says why.
    """
    match address:
        case UnixAddress():
            sock = _listen_unix(address, backlog)
        case InetAddress():
            sock = _listen_inet(address, backlog)
        case FdAddress():
            sock = _adopt(address)
            with _reporting("Failed to listen on fd socket", sock):
                sock.listen(backlog)
    sock.setblocking(False)
    return sock


def connect(address: Address) -> socket.socket:
    """Return a non-blocking socket that is connected to `address`; connecting may block.

    Raises:
        DeviceError: It is not possible; the message says why.
    """
    match address:
        case UnixAddress():
            name = _unix_name(address)
            sock = _unix_socket()
            with _reporting(f"Failed to connect to '{address.path}'", sock):
                sock.connect(name)
        case InetAddress():
            sock = _connect_inet(address)
        case FdAddress():
            sock = _adopt(address)
    sock.setblocking(False)
    return sock


class SocketFile(NamedTuple):
    """The file of a socket: its absolute path, and the status that identifies it."""

    path: str
    status: os.stat_result


def socket_file(address: Address) -> SocketFile | None:
    """Return the file of a socket that listens at `address`, if it has one."""
    if not isinstance(address, UnixAddress) or address.abstract:
        return None
    path = os.path.abspath(address.path)  # a daemon is about to leave the directory
    try:
        return SocketFile(path, os.stat(path, follow_symlinks=False))
    except OSError:
        return None


def remove(sock: socket.socket, file: SocketFile | None) -> None:
    """Close the listening `sock`, and remove its file unless another server has replaced it."""
    if file is not None:
        with contextlib.suppress(OSError):
            if os.path.samestat(file.status, os.stat(file.path, follow_symlinks=False)):
                os.unlink(file.path)
    sock.close()


def is_connected(sock: socket.socket) -> bool:
    """Return whether a socket is connected."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def describe(address: Address) -> str:
    """Return an address to connect to as QEMU shows it."""
    match address:
        case UnixAddress(path, abstract, tight):
            return f"unix:{path}{_namespace(abstract, tight)}"
        case InetAddress(host, port):
            return f"tcp:{host}:{port}"
        case FdAddress(fd):
            return f"fd:{fd}"


def describe_listening(sock: socket.socket) -> str:
    """Return the address that `sock` is bound to, as QEMU shows it."""
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return f"tcp:{name[0]}:{name[1]},server=on"
    if isinstance(name, str):
        return f"unix:{name},server=on"
    path = os.fsdecode(name[1:].rstrip(b"\0"))
    return f"unix:{path}{_namespace(True, len(name) < _PATH_ROOM)},server=on"


def describe_connected(sock: socket.socket, server: bool) -> str:
    """Return both ends of a connection as QEMU shows them."""
    suffix = ",server=on" if server else ""
    here = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        shown = here if server else sock.getpeername()
        # As in QEMU, names outside the file system are not shown.
        return f"unix:{shown if isinstance(shown, str) else ''}{suffix}"
    try:
        there = sock.getpeername()
    except OSError:  # the client has disconnected already
        there = ("", 0)
    left, right = (f"[{host}]" if ":" in host else host for host in (here[0], there[0]))
    return f"tcp:{left}:{here[1]}{suffix} <-> {right}:{there[1]}"


def _namespace(abstract: bool, tight: bool) -> str:
    return f",abstract=on{',tight=on' if tight else ''}" if abstract else ""


@contextlib.contextmanager
def _reporting(failed: str, sock: socket.socket | None = None) -> Iterator[None]:
    """Translate the failure of a system call into QEMU's message, and close `sock`."""
    try:
        yield
    except OSError as error:
        if sock is not None:
            sock.close()
        raise DeviceError(f"{failed}: {os.strerror(error.errno or 0)}") from error


def _unix_socket() -> socket.socket:
    with _reporting("Failed to create Unix socket"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _unix_name(address: UnixAddress) -> bytes:
    """Return the socket address for the system, which has limited room for it."""
    path = os.fsencode(address.path)
    if not path:  # the kernel would choose an abstract name, open to every user
        raise DeviceError("a UNIX socket needs a path")
    if address.abstract and not _LINUX:
        raise DeviceError(f"UNIX socket '{address.path}': abstract=on is for Linux only")
    room = _PATH_ROOM - 1 if address.abstract else _PATH_ROOM
    # The system allows a path that fills it, but Python needs a byte for a terminating zero.
    if len(path) > _PATH_ROOM - 1:
        raise DeviceError(
            f"UNIX socket path '{address.path}' is too long",
            f"Path must be less than {room} bytes",
        )
    if not address.abstract:
        return path
    name = b"\0" + path
    return name if address.tight else name.ljust(_PATH_ROOM, b"\0")


def _listen_unix(address: UnixAddress, backlog: int) -> socket.socket:
    name = _unix_name(address)
    sock = _unix_socket()
    with _reporting(f"Failed to bind socket to {address.path}", sock):
        if _LINUX:
            os.fchmod(sock.fileno(), _MODE)  # the file gets this mode, less the umask
        try:
            sock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or address.abstract:
                raise
            _replace(name, sock)
        if not _LINUX:  # nobody can have connected: it does not listen yet
            os.chmod(name, os.lstat(name).st_mode & _MODE)
    with _reporting("Failed to listen on socket", sock):
        sock.listen(backlog)
    return sock


def _replace(path: bytes, sock: socket.socket) -> None:
    """Bind `sock` to `path` in place of a socket that no process has bound any more.

    Only one process at a time does this in a directory: another one could bind its socket
    between the check and the removal of the file. Of several that try to bind when there is no
    file, the system lets only one succeed.

    Raises:
        OSError: The file at `path` must stay, or cannot be replaced.
    """
    with _locked(os.path.dirname(path) or b".") as locked:
        if locked and _is_stale(path):
            with (
                _reporting(f"Failed to unlink socket {os.fsdecode(path)}", sock),
                contextlib.suppress(FileNotFoundError),
            ):
                os.unlink(path)
        sock.bind(path)


@contextlib.contextmanager
def _locked(directory: bytes) -> Iterator[bool]:
    """Lock a directory, and yield whether it is locked: some cannot be.

    It blocks while another process has the lock, for `_LOCK_PATIENCE` at most.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # the process may have no permission to read it
        yield False
        return
    try:
        yield _lock(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_AGAIN)  # a lock with a time limit does not exist
        except OSError:  # the file system has no locks
            return False
        else:
            return True
    return False


def _is_stale(path: bytes) -> bool:
    """Return whether the file at `path` is a socket that no process has bound."""
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISSOCK(mode) and not _is_bound(path)


def _is_bound(path: bytes) -> bool:
    """Return whether a process has a socket bound to `path`; it does not notice the check."""
    # A datagram socket cannot connect to a stream socket; the error tells whether one is bound.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


# A descriptor has one owner: of two, the second to close it would close another one's.
_adopted: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _adopt(address: FdAddress) -> socket.socket:
    if any(sock.fileno() == address.fd for sock in _adopted):
        raise DeviceError(f"File descriptor '{address.fd}' is in use by another device")
    try:
        sock = socket.socket(fileno=address.fd)
    except (OSError, OverflowError) as error:
        raise DeviceError(f"File descriptor '{address.fd}' is not a socket") from error
    _adopted.add(sock)
    sock.set_inheritable(False)
    return sock


_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


def _resolve(address: InetAddress, passive: bool) -> list[_AddressInfo]:
    if address.ipv4 is False and address.ipv6 is False:
        raise DeviceError("Cannot disable IPv4 and IPv6 at same time")
    family = socket.AF_UNSPEC
    if address.ipv4 and address.ipv6:
        # One socket can serve both families only as the IPv6 wildcard.
        family = socket.AF_INET6 if not address.host else socket.AF_UNSPEC
    elif address.ipv6 or address.ipv4 is False:
        family = socket.AF_INET6
    elif address.ipv4 or address.ipv6 is False:
        family = socket.AF_INET
    try:
        return socket.getaddrinfo(  # type: ignore[return-value]
            # Encoded here: the codec for other names is a module that is imported when it is used.
            (address.host.encode("ascii") if address.host.isascii() else address.host) or None,
            address.port,
            family,
            socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE if passive else socket.AI_CANONNAME | socket.AI_ADDRCONFIG,
        )
    except (socket.gaierror, UnicodeError, LookupError) as error:  # the others from IDNA
        reason = error.strerror if isinstance(error, OSError) else "Name or service not known"
        raise DeviceError(
            f"address resolution failed for {address.host}:{address.port}: {reason}"
        ) from error


def _listen_inet(address: InetAddress, backlog: int) -> socket.socket:
    both = (address.ipv4 is None and address.ipv6 is None) or bool(address.ipv4 and address.ipv6)
    failure: OSError | None = None
    created = False
    for family, kind, protocol, _, name in _resolve(address, passive=True):
        host, first = str(name[0]), int(str(name[1]))
        last = first if address.to is None else address.to
        for port in range(first, last + 1):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                failure = error
                break
            created = True
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                _bind(sock, (host, port, *name[2:]), both)
                sock.listen(backlog)
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    reason = os.strerror(error.errno or 0)
                    raise DeviceError(f"Failed to bind socket: {reason}") from error
                failure = error
            else:
                return sock
    failed = "Failed to find an available port" if created else "Failed to create a socket"
    raise DeviceError(f"{failed}: {os.strerror(failure.errno or 0) if failure else 'no address'}")


def _bind(sock: socket.socket, name: tuple[object, ...], both: bool) -> None:
    if sock.family != socket.AF_INET6:
        sock.bind(name)
        return
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
    try:
        sock.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not both:
            raise
        # Only the IPv4 half of the port may be taken.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        sock.bind(name)


def _connect_inet(address: InetAddress) -> socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, name in _resolve(address, passive=False):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            sock.connect(name)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    reason = os.strerror(failure.errno or 0) if failure else "no address"
    raise DeviceError(
        f"Failed to connect to '{address.host}:{address.port}': {reason}"
    ) from failure
