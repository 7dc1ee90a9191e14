"""Waiting for something while the peer may report an error or be gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpserver.migration import wire

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from qmpserver.migration.channels import Channel

LAST_WORDS_S = 1.0


class Answers:
    """Hears the destination while the source does something else; a one-way channel is silent."""

    def __init__(self, main: Channel) -> None:
        self._main = main
        self._next: asyncio.Task[dict[str, Any]] | None = None
        self._hear()

    def _hear(self) -> None:
        if self._main.two_way:
            self._next = asyncio.ensure_future(self._main.receive())

    async def expect(self, kind: str) -> None:
        """Wait for the message `kind`; return at once if the channel has one way only.

        Raises:
            OSError, StreamError: It is another one, or the destination is gone.
        """
        if self._next is not None:
            wire.expect(await self._next, kind)
            self._hear()

    async def unless(self, event: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
        """Wait for an event, or for so many seconds.

        Raises:
            OSError, StreamError: The destination reported an error, or is gone.
        """
        await wait_for_either(event, self._next, seconds)
        self._raise_heard()

    async def last_words(self) -> None:
        """Raise the destination's own error, if it sends one: it tells more than a broken pipe."""
        if self._next is not None:
            await asyncio.wait([self._next], timeout=LAST_WORDS_S)
            self._raise_heard()

    def _raise_heard(self) -> None:
        if self._next is not None and self._next.done():
            wire.expect(self._next.result(), "nothing yet")

    async def close(self) -> None:
        """Hear no more; the channel can be closed then."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])


async def wait_for_either(
    event: Coroutine[Any, Any, Any],
    message: asyncio.Task[Any] | None,
    seconds: float | None = None,
) -> None:
    """Wait for an event, for a message, or for so many seconds; the caller looks which it was."""
    waiting = asyncio.ensure_future(event)
    try:
        messages = [] if message is None else [message]
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait([waiting, *messages], timeout=seconds, return_when=first)
    finally:
        waiting.cancel()
