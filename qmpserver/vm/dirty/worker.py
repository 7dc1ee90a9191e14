"""A thread for calls that take milliseconds and must not run on the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Worker:
    """One thread, started here and not with the first call, when no more threads may be allowed.

    Raises:
        OSError: The thread cannot be started.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        try:
            self._executor.submit(int)
        except RuntimeError as error:
            raise OSError(f"{error}; raise the limit of threads (pids.max, ulimit -u)") from None

    async def run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Call `function` on the thread, after all calls before it, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def begin(self, function: Callable[[*Args], None], *args: *Args) -> None:
        """Have `function` called after all calls before it, and return; it must not raise."""
        self._executor.submit(function, *args)

    async def close(self) -> None:
        """Wait for a call under way, and end the thread."""
        await self.run(int)
        self._executor.shutdown()
