"""Files that the program writes for itself: its log, its trace events, its process id.

Their rule: they are created with mode 0600, less the umask, and no link leads to them. Another
user who may write to the directory could otherwise have any file of this user's emptied. Files
that hold data, such as those of `-chardev file` and `migrate`, are opened as QEMU opens them.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import TextIOWrapper

_MODE = 0o600


def open_text(path: str, flags: int = 0) -> TextIOWrapper:
    """Open a file to append text to it.

    A symbolic link is followed only to a device or a pipe, or to the file that is standard output
    or standard error: `/dev/stdout` is one.

    Args:
        path: The file.
        flags: Further flags of `open`, such as `os.O_TRUNC`.

    Raises:
        OSError: The file cannot be opened, or is a symbolic link.
    """
    flags |= os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        fd = _follow(path, flags & ~os.O_TRUNC)
    return open(fd, "w", encoding="utf-8")


def open_regular(path: str) -> int:
    """Return a descriptor to write to a regular file, which is created if it does not exist.

    Raises:
        OSError: The file cannot be opened, or is something else than a regular file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link() from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return fd


def _follow(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:  # nothing is created at the end of a link
        raise _is_link() from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and not any(_is_open_as(number, status) for number in (1, 2)):
        os.close(fd)
        raise _is_link()
    return fd


def _is_link() -> OSError:
    return OSError(errno.ELOOP, "it is a symbolic link")


def _is_open_as(fd: int, status: os.stat_result) -> bool:
    return os.path.samestat(os.fstat(fd), status)
