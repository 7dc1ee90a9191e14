"""One client of a human monitor: lines are read, executed one by one, and their output is shown.

Commands have no meaning here: `hmp` reads the tables of commands, `qmpserver.human`
has them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.executions import Executions
from qmpserver.monitor.readline import LineEditor
from qmpserver.qmp import printable

__all__ = ["HumanClient", "HumanCommands"]

_log = logging.getLogger(__name__)
_PROMPT = "(qemu) "
_MAX_WAITING = 65536


class HumanCommands(Protocol):
    """The commands of one human monitor."""

    def execute(self, line: str, history: Sequence[str]) -> Awaitable[str | None]:
        """Execute one line and return its output, or None if no prompt is to follow.

        The output includes errors. `history` holds the lines entered, this one last.
        """

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return the last word of `line` and its completions."""


class HumanClient:
    """One client of a human monitor; the `Owner` of its channel.

    Use from the event loop's thread only.

    Args:
        channel: The connection.
        commands: The commands.
        loop: The event loop.
        executions: Runs coroutines.
        left: Called when the connection is closed.
    """

    __slots__ = (
        "_channel",
        "_commands",
        "_editor",
        "_ended",
        "_executes",
        "_executions",
        "_left",
        "_loop",
        "_task",
        "_waiting",
    )

    def __init__(
        self,
        channel: Channel,
        commands: HumanCommands,
        *,
        loop: asyncio.AbstractEventLoop,
        executions: Executions,
        left: Callable[["HumanClient"], None],
    ) -> None:
        self._channel = channel
        self._commands = commands
        self._loop = loop
        self._executions = executions
        self._left = left
        self._editor = LineEditor(_PROMPT, self._complete)
        self._waiting = b""
        self._ended = False
        self._executes = True
        self._task: asyncio.Task[None] | None = None

    def start(self, banner: str) -> None:
        """Show `banner` and the prompt, and begin to read."""
        self._channel.start(self)
        self._channel.write(_encode(banner))
        self._editor.show_prompt()
        self._flush()

    async def finish(self, deadline: float) -> None:
        """Execute no further line, let the current one end, show its output, and close.

        If it is cancelled, it abandons the command and closes at once.

        Args:
            deadline: When to stop waiting, in the event loop's time.
        """
        self._executes = False
        self._channel.pause()
        try:
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=max(0.0, deadline - self._loop.time()))
            await self._channel.flush_until(deadline)
        finally:
            self.abort()

    def abort(self) -> None:
        """Execute no further line, abandon the current one, and close at once."""
        self._executes = False
        if self._task is not None:
            self._executions.abandon(self._task)
        self._channel.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the channel."""
        self._waiting += data
        self._run()

    def eof_received(self) -> None:
        """Execute the lines that came before the end of input, then disconnect."""
        self._ended = True
        self._run()

    def drained(self) -> None:
        """Go on after a pause: the output has been taken."""
        self._run()

    def channel_closed(self) -> None:
        """Forget the client.  A command that it has started goes on."""
        if self._task is not None:
            self._executions.leave(self._task)
            self._waiting = b""
        self._left(self)

    def _run(self) -> None:
        while self._executes and self._waiting and self._task is None and not self._channel.unsent:
            if self._channel.closed:  # as in QEMU, the remaining lines of a client that left
                return
            line, self._waiting = self._editor.feed(self._waiting)
            self._flush()
            if line is not None:
                self._task = self._executions.start(self._execute(line))
            elif self._waiting:  # others come first
                self._channel.pause()
                self._loop.call_soon(self._run)
                return
        if self._ended and self._task is None and not self._channel.unsent:
            self._channel.close()
        elif not self._executes or len(self._waiting) > _MAX_WAITING:
            self._channel.pause()
        else:
            self._channel.resume()

    async def _execute(self, line: str) -> None:
        try:
            shown = await self._commands.execute(line, self._editor.history)
            output = None if shown is None else _encode(shown)
        except BaseException as error:
            if self._executions.current_is_abandoned:
                raise
            _log.error("human monitor: command %s failed", line, exc_info=error)
            output = _encode(f"Error: {printable(error, repr)}\n")
        self._task = None
        if output is None:
            self._executes = False
            self._waiting = b""
        else:
            self._channel.write(output)
            self._editor.show_prompt()
            self._flush()
        self._run()

    def _complete(self, line: str) -> tuple[str, list[str]]:
        try:
            word, completions = self._commands.complete(line)
            return "".join(word), ["".join(one) for one in completions]  # or TypeError
        except BaseException as error:
            _log.error("human monitor: completion failed", exc_info=error)
            return "", []

    def _flush(self) -> None:
        output = self._editor.take_output()
        if output:
            self._channel.write(output)


def _encode(text: str) -> bytes:
    text = text.replace("\n", "\r\n")
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode(errors="surrogateescape")  # bytes that the client has sent
    return text.encode(errors="replace")
