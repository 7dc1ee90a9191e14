"""The bare transfer of memory over a socket: the bound of any migration on this machine."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
from typing import TYPE_CHECKING

from qmpserver.tools.errors import QmpctlError

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 256 << 10  # bytes of one call


def sendmsg_rate(size: int) -> float:
    """Return the MB/s of `sendmsg` from shared memory to a process that fills fresh shared memory.

    `size` is in bytes.

    Raises:
        QmpctlError: The process that reads has failed.
    """
    mine, childs = socket.socketpair()
    with contextlib.closing(mine), _shared(size) as memory:
        for at in range(0, size, PIECE):
            memory[at : at + PIECE] = bytes([1]) * min(PIECE, size - at)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                mine.close()
                _read(childs, size)
                os._exit(0)
            os._exit(1)
        childs.close()
        start = time.monotonic()
        with contextlib.suppress(ConnectionError), memoryview(memory) as view:
            sent = 0
            while sent < size:
                sent += mine.sendmsg([view[sent : sent + PIECE]])
            mine.recv(1)
        took = time.monotonic() - start
        _, status = os.waitpid(child, 0)
    if status:
        raise QmpctlError("the process that reads from a bare socket has failed")
    return size / took / (1 << 20)


def _read(connection: socket.socket, size: int) -> None:
    with _shared(size) as memory, memoryview(memory) as view:
        done = 0
        while done < size:
            got = connection.recv_into(view[done : done + PIECE])
            if not got:
                raise ConnectionError
            done += got
        connection.sendall(b"!")


@contextlib.contextmanager
def _shared(size: int) -> Iterator[mmap.mmap]:
    """Map fresh shared memory, as a machine's RAM is."""
    fd = os.memfd_create("qmpctl-bare")
    try:
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as memory:
            yield memory
    finally:
        os.close(fd)
