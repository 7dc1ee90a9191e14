"""Going to the background, and the name of the process."""

from __future__ import annotations

import os
import signal
import socket

from qmpserver.cli.settings import CommandLineError


class Launcher:
    """The process that has started this one, and waits until this one is ready.

    It can be watched by an event loop: it becomes readable if that process ends earlier, as by
    Ctrl-C. This one, which no terminal reaches, must end then.
    """

    def __init__(self, waiting: socket.socket) -> None:
        self._waiting = waiting

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._waiting.fileno()

    def release(self) -> None:
        """Leave that process's directory, input and output, and let it exit with status 0.

        Raises:
            BrokenPipeError: It has ended.
        """
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        self._waiting.send(b"\0")
        self._waiting.close()


def daemonize() -> Launcher:
    """Continue in a new process without a terminal.

    The calling process exits: with status 0 once the new one releases it, with status 1 if the new
    one ends before. Call this before there are threads or a VM.

    Raises:
        CommandLineError: The system refuses a new process.
    """
    waiting, started = socket.socketpair()
    if _fork():
        started.close()
        os._exit(0 if waiting.recv(1) else 1)
    waiting.close()
    os.setsid()
    if _fork():
        os._exit(0)
    os.umask(0o027)
    for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
        signal.signal(number, signal.SIG_IGN)
    return Launcher(started)


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
        with open("/proc/self/comm", "wb") as comm:
            comm.write(os.fsencode(name))
    except FileNotFoundError:
        raise CommandLineError("Change of process name not supported by your OS") from None
    except OSError as error:
        raise CommandLineError(f"unable to change process name: {error.strerror}") from None
