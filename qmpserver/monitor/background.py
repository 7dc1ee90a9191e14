"""Calls that may block, made in a thread while the event loop goes on.

Each call has a daemon thread of its own: a name may take long to resolve and a
host long to answer, and neither other calls nor the end of the program wait for it.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_in_thread", "start_in_thread"]

T = TypeVar("T")


async def call_in_thread(name: str, function: Callable[[], T], discard: Callable[[T], object]) -> T:
    """Return the result of `function`, called in a thread.

    Args:
        name: The thread's name.
        function: The call; it cannot be interrupted.
        discard: Disposes of the result if the caller was cancelled meanwhile.

    Raises:
        Exception: The exception of `function`.
    """
    future = start_in_thread(name, function, discard)
    try:
        return await future
    except asyncio.CancelledError:
        # The result may be there, with this coroutine not yet resumed.
        if not future.cancelled() and future.done() and future.exception() is None:
            discard(future.result())
        raise


def start_in_thread(
    name: str, function: Callable[[], T], discard: Callable[[T], object]
) -> "asyncio.Future[T]":
    """Start `function` in a thread, and return the future of its result.

    Cancel the future to give up; the result is discarded then. Arguments are those of
    `call_in_thread`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def succeed(result: T) -> None:
        if future.done():  # cancelled
            discard(result)
        else:
            future.set_result(result)

    def fail(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        try:
            result = function()
        except Exception as error:
            _call_soon(loop, fail, error)
        else:
            if not _call_soon(loop, succeed, result):
                discard(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[T], None], argument: T) -> bool:
    """Call `callback` on the loop's thread; return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(callback, argument)
    except RuntimeError:
        return False
    return True
