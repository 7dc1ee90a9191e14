"""The files that users name: each of them is opened here, except the devices of monitors.

Three rules keep a path from holding up the program:

- Opening never waits. A pipe needs its other side: a pipe that nobody writes to is not read, and
  one that nobody reads is not written.
- Reading ends: a file with more than `LARGEST` bytes is refused, and so is a device without an end.
- Writing never waits for the reader of a pipe: a pipe that is full fails as a full disk does.

Files that the program writes for itself, such as its log, are created with mode 0600, less the
umask, and no link leads to them. Another user who may write to the directory could otherwise have
any file of this user's emptied. Files that hold data, such as those of `-chardev file` and
`migrate`, are opened as QEMU opens them, by their own modules and in threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import TextIOWrapper

LARGEST = 64 << 20  # bytes; a schema with its documentation has a few MB
_MODE = 0o600
_LAST_STANDARD = 2  # descriptor
_CHUNK = 1 << 20
_PIPE_SIZE = 1 << 20  # the most that Linux gives to any user
_NEVER_WAIT = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_standard_streams() -> None:
    """Open `/dev/null` in place of closed standard streams; else a socket could become stdout."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        pass
    os.close(fd)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def read_bytes(
    path: str | os.PathLike[str], *, largest: int = LARGEST, regular: bool = False
) -> bytes:
    """Return the content of a file, or all that comes from a pipe or a device.

    It waits for those who write to a pipe until they close it; a signal can end the program then.

    Args:
        path: The file.
        largest: Refuse more bytes than that.
        regular: Refuse everything but a regular file.

    Raises:
        OSError: The file cannot be opened or read, or is refused.
        ValueError: The path has a null byte.
    """
    try:
        fd = _open(path, os.O_RDONLY | _NEVER_WAIT)
        try:
            mode = os.fstat(fd).st_mode
            if regular and not stat.S_ISREG(mode):
                raise _refusal("not a regular file")
            content = read_descriptor(fd, largest)
            if stat.S_ISFIFO(mode) and not content:
                raise _refusal("nobody writes to this pipe")
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    return content


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Return the content of a text file, with `\n` at the end of each line.

    Raises:
        OSError, ValueError: As `read_bytes`.
        UnicodeDecodeError: It is not UTF-8.
    """
    return text_of(read_bytes(path))


def read_descriptor(fd: int, largest: int = LARGEST) -> bytes:
    """Return all that can be read from a descriptor.

    Raises:
        OSError: It cannot be read, or has more than `largest` bytes.
    """
    content = bytearray()
    while True:
        try:
            chunk = os.read(fd, min(_CHUNK, largest + 1 - len(content)))
        except BlockingIOError:
            ready = select.poll()
            ready.register(fd, select.POLLIN)
            ready.poll()
            continue
        content += chunk
        if not chunk:
            return bytes(content)
        if len(content) > largest:
            raise OSError(errno.EFBIG, f"more than {largest} bytes")


def text_of(content: bytes) -> str:
    r"""Return a text file's content as text, with `\n` at the end of each line.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def open_text(path: str, flags: int = 0) -> TextIOWrapper:
    """Open a file of the program's own to append text to it.

    A symbolic link is followed only to a device or a pipe, or to the file that is standard output
    or standard error: `/dev/stdout` is one.

    Args:
        path: The file.
        flags: Further flags of `open`, such as `os.O_TRUNC`.

    Raises:
        OSError: The file cannot be opened, is a symbolic link, or is a pipe that nobody reads.
        ValueError: The path has a null byte.
    """
    flags |= os.O_WRONLY | os.O_APPEND | _NEVER_WAIT
    try:
        try:
            fd = _open(path, flags | os.O_CREAT | os.O_NOFOLLOW, _MODE)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            fd = _follow(path, flags & ~os.O_TRUNC)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(errno.ENXIO, "nobody reads this pipe", path) from None
        raise
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError, AttributeError):  # the user has many pipes; not Linux
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    else:
        os.set_blocking(fd, True)  # a terminal is slow, but does not stop
    return open(fd, "w", encoding="utf-8")


def open_regular(path: str) -> int:
    """Return a descriptor to write to a regular file, which is created if it does not exist.

    Raises:
        OSError: The file cannot be opened, or is something else than a regular file.
        ValueError: The path has a null byte.
    """
    try:
        fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | _NEVER_WAIT, _MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link() from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise _refusal("not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _refusal("not a regular file")
    return fd


def _open(path: str | os.PathLike[str], flags: int, mode: int = _MODE) -> int:
    if "\0" in os.fspath(path):  # releases of Python have different words for it
        raise ValueError("embedded null byte")
    return os.open(path, flags, mode)


def _follow(path: str, flags: int) -> int:
    try:
        fd = _open(path, flags)
    except FileNotFoundError:  # nothing is created at the end of a link
        raise _is_link() from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and not any(_is_open_as(number, status) for number in (1, 2)):
        os.close(fd)
        raise _is_link()
    return fd


def _refusal(why: str) -> OSError:
    return OSError(errno.EINVAL, why)


def _is_link() -> OSError:
    return OSError(errno.ELOOP, "it is a symbolic link")


def _is_open_as(fd: int, status: os.stat_result) -> bool:
    return os.path.samestat(os.fstat(fd), status)
