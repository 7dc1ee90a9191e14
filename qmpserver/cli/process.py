"""The process around the machine: what it inherits, how it becomes a daemon, its files."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

_FIRST_PASSED = 3
_log = logging.getLogger("qmpserver")


class ProcessError(Exception):
    """What the process can't have, in QEMU's words."""


def open_standard_descriptors() -> None:
    """Open ``/dev/null`` where a standard descriptor is closed: a socket must not become stdout."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def check_descriptors(needed: int) -> None:
    """Find out beforehand whether so many descriptors may be open.

    Raises:
        ProcessError: They may not; the text says how to allow it.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise ProcessError(
            f"Too many open files: {needed} are needed, {allowed} are allowed (ulimit -n {needed})"
        )


def show(text: str) -> None:
    """Write it to stderr, if there is one that takes it."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


class _Report:
    """Says what happened, on stderr and in the log.

    Messages begin with the time if `timestamps` is set, and with the name `guest` if there is one.
    """

    timestamps = False
    guest: str | None = None

    def __call__(self, message: str) -> None:
        parts = [message]
        parts.insert(0, "qmpserver:")
        if self.timestamps:
            from datetime import UTC, datetime

            if self.guest is not None:
                parts.insert(0, self.guest)
            parts.insert(0, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        show(" ".join(parts))
        if _log.hasHandlers() and not _log.propagate:
            _log.info(message)


report = _Report()


class _LogFile(logging.FileHandler):
    """Says once on standard error that it can't be written to, and not with a traceback a line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Take an error while a line was written."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)
        show(f"qmpserver: the log can't be written, it ends here: {error.strerror}")


def log_to(path: str) -> None:
    """Write the log of this program to file `path`.

    Raises:
        ProcessError: It can't be opened.
    """
    try:
        Path(path).write_bytes(b"")
        # Both append, this and the trace events' writer, or one would overwrite the other.
        handler = _LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise ProcessError(f"Error opening logfile {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False  # else warnings go to stderr, too


def passed_descriptors(environ: MutableMapping[str, str]) -> list[int]:
    """Take the descriptors that a service manager has passed, by its ``LISTEN_FDS`` protocol.

    The variables are removed and the descriptors closed on exec: they are nobody else's.

    Raises:
        ProcessError: The variables name a descriptor that is not open.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    passed = list(range(_FIRST_PASSED, _FIRST_PASSED + int(count)))
    for fd in passed:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise ProcessError(
                f"Socket activation failed: invalid file descriptor fd = {fd}: {error.strerror}"
            ) from None
    return passed


def daemonize() -> Callable[[], None]:
    """Go on in a process without a terminal; call this before there are threads or a VM.

    The process that called exits with status 0 when what is returned is called, and with 1
    if the new one ends before.

    Raises:
        OSError: There can be no such process.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.umask(0o027)
    for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
        signal.signal(number, signal.SIG_IGN)

    def ready() -> None:
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        os.write(writer, b"\0")
        os.close(writer)

    return ready


@contextlib.contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Keep this process's id in file `path`, locked, and remove it afterwards.

    Raises:
        ProcessError: It can't be written, or is another running process's.
    """
    fd, path = _lock(path), os.path.abspath(path)
    try:
        try:
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode("ascii"))
        except OSError as error:
            raise ProcessError(
                f"cannot create PID file: Failed to write pid file: {error.strerror}"
            ) from None
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ProcessError(
                f"cannot create PID file: Could not create '{path}': {error.strerror}"
            ) from None
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed it between the two calls.
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(fd)
            raise ProcessError(
                f"cannot create PID file: Cannot lock pid file: {error.strerror}"
            ) from None
        os.close(fd)


def rename(name: str) -> None:
    """Give the process a name, of which the kernel keeps 15 bytes."""
    Path("/proc/self/comm").write_bytes(os.fsencode(name)[:15])
