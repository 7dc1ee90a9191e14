"""A warm process that forks a stand-in whenever a link to this program is called as QEMU.

The new process has read no module and no schema, and shares their memory with all others. It takes
the caller's arguments, environment, directory and files; the caller waits for its exit status, and
that is when it has gone to the background.
"""

from __future__ import annotations

import fcntl
import gc
import os
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
        OptionError: The socket beside the link cannot be opened.
    """
    for number in _ENDS:
        signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # until the socket's file would be removed
    address = UnixAddress(link + FORK_SERVER)
    listener = listen(address, _BACKLOG)
    file = socket_file(address)
    listener.setblocking(True)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets children that end
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        while True:
            caller, _ = listener.accept()
            with caller:
                if _is_own(caller) and not os.fork():
                    for number in (*_ENDS, signal.SIGCHLD):
                        signal.signal(number, signal.SIG_DFL)
                    listener.close()
                    _attend(caller, program)
    finally:
        remove(listener, file)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _is_own(caller: socket.socket) -> bool:
    size = struct.calcsize("3i")
    credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _pid, user, _group = struct.unpack("3i", credentials)
    return bool(user == os.geteuid())


def _attend(caller: socket.socket, program: Callable[[], NoReturn]) -> NoReturn:
    """Run the program in a child; tell the caller its exit status, or end it with the caller."""
    status = 1
    try:
        child = os.fork()
        if not child:
            _take_place(caller)
            program()
        ends = select.poll()
        ends.register(os.pidfd_open(child), select.POLLIN)
        ends.register(caller, select.POLLRDHUP)  # its words are for the child to read
        if caller.fileno() in dict(ends.poll()):
            os.kill(child, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        caller.send(bytes([status % 256]))
    finally:
        os._exit(status % 256)


def _take_place(caller: socket.socket) -> None:
    """Become what the caller is: its arguments, environment, directory, mask and files."""
    caller.settimeout(_PATIENCE_S)
    head, passed, _, _ = socket.recv_fds(caller, 4, _MOST_FILES)
    text = b""
    while len(text) < min(int.from_bytes(head), _MOST_BYTES):
        text += caller.recv(1 << 16) or _cut_off()
    directory, mask, files, count, *words = map(os.fsdecode, text.split(ZERO))
    numbers = [int(one) for one in files.split()]
    free = max([*numbers, *passed, caller.fileno()]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in passed]
    caller.detach()
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
