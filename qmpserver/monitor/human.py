"""People at a terminal: the human monitor on a channel.  What commands mean is not known here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.readline import LineEditor

__all__ = ["HumanClient", "HumanCommands"]

_log = logging.getLogger(__name__)
_PROMPT = "(qemu) "
_MAX_WAITING = 65536


class HumanCommands(Protocol):
    """What the human monitor needs of the commands."""

    def execute(self, line: str, history: Sequence[str]) -> Awaitable[str | None]:
        """Execute one line and return what to show; None where no prompt is to follow.

        Errors are something to show too. *history* are the lines entered, this one the last.
        """

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return the last word of *line*, and what it could become."""


class HumanClient:
    """One person at a monitor.

    Use from the event loop's thread only.
    """

    __slots__ = (
        "_channel",
        "_commands",
        "_editor",
        "_ended",
        "_left",
        "_spawn",
        "_suspended",
        "_task",
        "_waiting",
    )

    def __init__(
        self,
        channel: Channel,
        commands: HumanCommands,
        left: Callable[["HumanClient"], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._channel = channel
        self._commands = commands
        self._editor = LineEditor(_PROMPT, commands.complete)
        self._left = left
        self._spawn = spawn
        self._waiting = b""
        self._ended = False
        self._suspended = False
        self._task: asyncio.Task[None] | None = None

    def start(self, banner: str) -> None:
        """Welcome the person and begin to read."""
        self._channel.start(self)
        self._channel.write(_lines(banner))
        self._editor.show_prompt()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the channel."""
        self._waiting += data
        self._run()

    def eof_received(self) -> None:
        """Execute what was entered before the end of input, then let the person go."""
        self._ended = True
        self._run()

    def drained(self) -> None:
        """Go on where a full channel has stopped us."""
        self._run()

    def channel_closed(self) -> None:
        """Forget the person."""
        self._left(self)

    async def finish(self, deadline: float) -> None:
        """Read no more, let the command that is being executed end, and show what there is."""
        self._channel.pause()
        loop = asyncio.get_running_loop()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=max(0.0, deadline - loop.time()))
            if self._task is not None:
                self._task.cancel()
        await self._channel.flush_until(deadline)
        self._channel.close()

    def _run(self) -> None:
        while self._waiting and self._task is None and not self._channel.unsent:
            if self._channel.closed:  # as in QEMU, nothing of who has left is executed
                return
            line, self._waiting = self._editor.feed(self._waiting)
            self._flush()
            if line is not None:
                self._task = self._spawn(self._execute(line))
        if self._ended and self._task is None and not self._channel.unsent:
            self._channel.close()
        elif self._suspended or len(self._waiting) > _MAX_WAITING:
            self._channel.pause()
        else:
            self._channel.resume()

    async def _execute(self, line: str) -> None:
        try:
            shown = await self._commands.execute(line, self._editor.history)
        except Exception as error:
            _log.error("human monitor: command %s failed", line, exc_info=error)
            shown = f"Error: {error!r}\n"
        self._task = None
        if shown is None:
            self._suspended = True
            self._waiting = b""
        else:
            self._channel.write(_lines(shown))
            self._editor.show_prompt()
            self._flush()
        self._run()

    def _flush(self) -> None:
        output = self._editor.take_output()
        if output:
            self._channel.write(output)


def _lines(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode(errors="surrogateescape")
