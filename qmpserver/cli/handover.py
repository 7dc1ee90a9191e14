"""The way of a program that is called as QEMU to a fork server, which runs in its place.

It imports little: that is the point of it. `forkserver.py` has the other side.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from qmpserver.cli.invocation import FORK_SERVER

if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO = b"\0"
STATUS = 'read -r status || echo "$0: the fork server has hung up" >&2; exit "${status:-1}"'
"""The shell's words for what is left to do: wait for an exit status, in little memory."""


def hand_over(argv: Sequence[str]) -> None:
    """Have a fork server run the program in place of this process, which waits for its end.

    It runs with this process's arguments, files, environment and place, and ends if this process
    does. Returns only if there is no fork server for this name.

    Raises:
        OSError: The fork server has hung up.
    """
    files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(argv[0] + FORK_SERVER)
        except OSError:
            return
        mask = os.umask(0)
        os.umask(mask)
        words = [
            os.getcwd(),
            str(mask),
            " ".join(map(str, files)),
            str(len(argv)),
            *argv,
            *(f"{name}={value}" for name, value in os.environ.items()),
        ]
        text = ZERO.join(map(os.fsencode, words))
        socket.send_fds(server, [len(text).to_bytes(4)], files)
        server.sendall(text)
        os.dup2(server.fileno(), 0)
        os.execv("/bin/sh", [argv[0], "-c", STATUS, *argv])


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # it was that of the listing
        return False
    return True
