"""The way of a program that is called as QEMU to a fork server, which runs in its place.

It imports little: that is the point of it. `forkserver.py` has the other side.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from qmpserver.cli.invocation import FORK_SERVER

if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO = b"\0"


def hand_over(argv: Sequence[str]) -> int | None:
    """Have a fork server start the program with this process's arguments, files and place.

    Returns:
        The exit status of that process, which has gone to the background by then; None if there is
        no fork server for this name, or if it must not go to the background.
    """
    if "-daemonize" not in argv:
        return None
    files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(argv[0] + FORK_SERVER)
        except OSError:
            return None
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
        try:
            socket.send_fds(server, [len(text).to_bytes(4)], files)
            server.sendall(text)
            status = server.recv(1)
        except OSError:
            status = b""
    if not status:
        print(f"qmpserver: {argv[0]}{FORK_SERVER}: the fork server has hung up", file=sys.stderr)
        return 1
    return status[0]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # it was that of the listing
        return False
    return True
