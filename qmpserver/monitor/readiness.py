"""Questions about descriptors that the readers of an event loop do not answer.

Linux answers with epoll; each has another way for systems without it.
"""

import asyncio
import os
import select
import socket
import stat
from collections.abc import Callable

__all__ = ["is_hung_up", "pollable", "watch"]

_AGAIN_S = 0.1


def watch(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, left: Callable[[], None]
) -> Callable[[], None]:
    """Call `left` once the peer of `sock` has left, and read nothing.

    Without epoll, a peer that has left unread bytes is noticed a moment later; over TCP, some
    systems do not tell before somebody reads.

    Returns:
        A function that ends the watch; call it before anything else reads `sock`.

    Raises:
        OSError: The watch cannot be made.
    """
    # The loop waits for readable sockets only, and a socket with unread bytes stays readable.
    if not hasattr(select, "epoll"):
        return _peek(loop, sock, left)
    poll = select.epoll(1)
    poll.register(sock, select.EPOLLRDHUP)
    loop.add_reader(poll.fileno(), left)

    def end() -> None:
        loop.remove_reader(poll.fileno())
        poll.close()

    return end


def _peek(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, left: Callable[[], None]
) -> Callable[[], None]:
    again: asyncio.TimerHandle | None = None

    def end() -> None:
        loop.remove_reader(sock)
        if again is not None:
            again.cancel()

    def look() -> None:
        nonlocal again
        try:
            gone = not sock.recv(1, socket.MSG_PEEK) or is_hung_up(sock)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            left()
        else:
            loop.remove_reader(sock)  # it stays readable
            again = loop.call_later(_AGAIN_S, look)

    loop.add_reader(sock, look)
    return end


def pollable(fd: int) -> bool:
    """Return whether event loops wait for `fd`; regular files and /dev/null are always ready."""
    if not hasattr(select, "epoll"):
        mode = os.fstat(fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
    with select.epoll() as poll:
        try:
            poll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
    return True


def is_hung_up(sock: socket.socket) -> bool:
    """Return whether the peer has closed both directions, as far as the system knows."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(happened & select.POLLHUP for _, happened in poll.poll(0))
