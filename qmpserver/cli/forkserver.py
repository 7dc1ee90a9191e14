"""A warm process that forks a stand-in whenever a link to this program is called as QEMU.

The new process has read no module and no schema, and shares their memory with all others. It takes
the caller's arguments, environment, directory and files. The caller stays, as a shell that waits
for the exit status: whoever started it watches and signals the process that it knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from qmpserver.cli.handover import ZERO
from qmpserver.cli.invocation import FORK_SERVER
from qmpserver.keyval import OptionError
from qmpserver.monitor import UnixAddress
from qmpserver.monitor.sockets import listen, remove, socket_file

if TYPE_CHECKING:
    from collections.abc import Callable

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BACKLOG = 1024
_OWN_FILES = 20
_FILES_EACH = 2  # a caller's socket, and one that tells the end of its process
_MOST_FILES = 253  # the kernel's limit of a message
_MOST_BYTES = 16 << 20  # more than the kernel takes as arguments and environment
_PATIENCE_S = 10  # for a caller's words


def serve(link: str, program: Callable[[], NoReturn]) -> NoReturn:
    """Fork at each call of `link`, until a signal ends this process.

    Everything that children are to share must have been imported. There must be no thread.

    Args:
        link: The link to this program, whose name is that of a QEMU.
        program: Runs in each child, with its arguments in `sys.argv`.

    Raises:
        OptionError: The socket beside the link cannot be opened, or the system is not Linux.
    """
    if sys.platform != "linux":
        raise OptionError(f"a fork server needs Linux, not {sys.platform}")
    for number in _ENDS:
        signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # until the socket's file would be removed
    address = UnixAddress(link + FORK_SERVER)
    listener = listen(address, _BACKLOG)
    file = socket_file(address)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of it
    children = _Children(listener, program)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        while True:
            children.attend()
    finally:
        remove(listener, file)
        children.end()


class _Children:
    """The children, and the callers that wait for their exit status."""

    def __init__(self, listener: socket.socket, program: Callable[[], NoReturn]) -> None:
        self._listener = listener
        self._program = program
        self._callers: dict[int, tuple[int, socket.socket]] = {}  # by the child's pidfd
        self._pids: dict[int, int] = {}  # by the descriptor of a caller that waits
        self._most = (_raise_limit() - _OWN_FILES) // _FILES_EACH
        self._poll = select.poll()

    def attend(self) -> None:
        """Wait for a call or an end, and attend to it."""
        has_room = len(self._callers) < self._most
        self._poll.register(self._listener, select.POLLIN if has_room else 0)
        ready = [fd for fd, _ in self._poll.poll()]
        for fd in ready:
            if fd in self._callers:
                self._end(fd)
            elif fd in self._pids:
                self._poll.unregister(fd)
                os.kill(self._pids.pop(fd), signal.SIGTERM)
        if self._listener.fileno() in ready:  # now that no number of a descriptor is stale
            self._begin()

    def end(self) -> None:
        """End the children that are not in the background."""
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)

    def _begin(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:  # it has gone
            return
        try:
            if not _is_own(caller):
                raise PermissionError
            pid = os.fork()
        except OSError:  # also if there are too many processes
            caller.close()
            return
        if not pid:
            _become(caller, self._program)
        pidfd = os.pidfd_open(pid)
        self._callers[pidfd], self._pids[caller.fileno()] = (pid, caller), pid
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(caller, select.POLLRDHUP)  # its words are for the child to read

    def _end(self, pidfd: int) -> None:
        pid, caller = self._callers.pop(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with caller, contextlib.suppress(OSError):
            if self._pids.pop(caller.fileno(), None) is not None:
                self._poll.unregister(caller)
            caller.send(b"%d\n" % (status % 256))
        self._poll.unregister(pidfd)
        os.close(pidfd)


def _raise_limit() -> int:
    """Allow as many files as the hard limit does; return their number."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else sys.maxsize


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _is_own(caller: socket.socket) -> bool:
    size = struct.calcsize("3i")
    credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, user, _group = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())


def _become(caller: socket.socket, program: Callable[[], NoReturn]) -> NoReturn:
    try:
        for number in _ENDS:
            signal.signal(number, signal.SIG_DFL)
        _take_place(caller)
        program()
    finally:
        os._exit(1)


def _take_place(caller: socket.socket) -> None:
    """Become what the caller is: its arguments, environment, directory, mask and files."""
    caller.settimeout(_PATIENCE_S)
    head, passed, _, _ = socket.recv_fds(caller, 4, _MOST_FILES)
    text = b""
    while len(text) < min(int.from_bytes(head), _MOST_BYTES):
        text += caller.recv(1 << 16) or _cut_off()
    directory, mask, files, count, *words = map(os.fsdecode, text.split(ZERO))
    numbers = [int(one) for one in files.split()]
    free = max(*numbers, *map(int, os.listdir("/proc/self/fd"))) + 1
    # The caller's socket stays open: it shows that there is a stand-in, also without the server.
    _, *moved = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in (caller.detach(), *passed))
    os.closerange(0, free)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(directory)
    os.umask(int(mask))
    sys.argv = words[: int(count)]
    os.environ.clear()
    for word in words[int(count) :]:
        name, _, value = word.partition("=")
        os.environ[name] = value


def _cut_off() -> NoReturn:
    raise OptionError("the caller has ended")
