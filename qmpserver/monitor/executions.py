"""Coroutines that execute commands: they go on when their client leaves, until the server ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["MAX_LEFT", "Executions"]

MAX_LEFT = 256
"""Commands that go on although their clients have left."""


class Executions:
    """The commands of one server that are being executed by coroutines.

    Use from the event loop's thread only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._left: set[asyncio.Task[None]] = set()

    def start(self, execution: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `execution` as a task."""
        task = self._loop.create_task(execution)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def abandon(self, task: asyncio.Task[None]) -> None:
        """Cancel an execution for the server's sake: nobody waits for its outcome any more."""
        self._abandoned.add(task)
        task.cancel()

    def leave(self, task: asyncio.Task[None]) -> None:
        """Note that the client of an execution has left; of too many, the newest is abandoned."""
        self._left.add(task)
        if len(self._left) > MAX_LEFT:
            self.abandon(task)

    @property
    def current_is_abandoned(self) -> bool:
        """Whether `abandon` has cancelled the current task, or the event loop runs no more.

        If not, a `CancelledError` in it is the handler's own, an outcome like any other. A task
        that outlives its event loop is closed by the interpreter.
        """
        return not self._loop.is_running() or asyncio.current_task() in self._abandoned

    def refuse_wait(self, function: str) -> None:
        """Refuse to let a command wait for its own end.

        Raises:
            RuntimeError: The current task executes a command.
        """
        if asyncio.current_task() in self._running:
            raise RuntimeError(
                f"{function} waits until commands have ended, so a handler cannot await it; "
                "let the handler set an event that the program waits for"
            )

    async def end(self) -> None:
        """Abandon all executions and wait until they have ended."""
        while self._running:
            for task in self._running:
                self.abandon(task)
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._abandoned.discard(task)
        self._left.discard(task)
