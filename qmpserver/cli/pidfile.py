"""The file of `-pidfile`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from qmpserver.cli.settings import CommandLineError
from qmpserver.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Keep this process's id in file `path`, locked, and remove the file afterwards.

    Raises:
        CommandLineError: The file cannot be written, or another running process holds its lock.
    """
    fd, path = _lock(path), os.path.abspath(path)  # -daemonize changes the directory
    try:
        try:
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode("ascii"))
        except OSError as error:
            raise _refusal("Failed to write pid file", error) from None
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), os.fstat(fd)):
                os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    while True:
        try:
            fd = open_regular(path)
        except OSError as error:
            raise _refusal(f"Could not create '{path}'", error) from None
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed it between the two calls.
            if os.path.samestat(os.lstat(path), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(fd)
            raise _refusal("Cannot lock pid file", error) from None
        os.close(fd)


def _refusal(action: str, error: OSError) -> CommandLineError:
    return CommandLineError(f"cannot create PID file: {action}: {error.strerror}")
