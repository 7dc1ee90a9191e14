"""Going to the background, and the name of the process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.cli.settings import CommandLineError

if TYPE_CHECKING:
    from collections.abc import Callable


def daemonize() -> Callable[[], None]:
    """Continue in a new process without a terminal; return a function that says it is ready.

    The calling process exits: with status 0 once the new one calls the returned function, with
    status 1 if the new one ends before. Call this before there are threads or a VM.

    Raises:
        CommandLineError: The system refuses a new process.
    """
    reader, writer = os.pipe()
    if _fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    if _fork():
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


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise CommandLineError(f"-daemonize: cannot fork: {error.strerror}") from None


def rename_process(name: str) -> None:
    """Name the process; the kernel keeps 15 bytes.

    Raises:
        CommandLineError: The system refuses it.
    """
    try:
        Path("/proc/self/comm").write_bytes(os.fsencode(name))
    except FileNotFoundError:
        raise CommandLineError("Change of process name not supported by your OS") from None
    except OSError as error:
        raise CommandLineError(f"unable to change process name: {error.strerror}") from None
