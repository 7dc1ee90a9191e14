"""What carries a monitor's messages over HTTP: a WebSocket, or the answer to one request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor.channel import Owner

_FAREWELL = 1.0  # seconds that a client has to answer the closing of its WebSocket


class WebSocketChannel:
    """One client's WebSocket, a QMP message a frame, both ways.

    What the client has not taken is counted in `unsent`, as on a socket.
    """

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._owner: Owner | None = None
        self._frames: deque[str] = deque()
        self._unsent = 0
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._done = asyncio.Event()
        self.on_close: Callable[[], None] | None = None

    def start(self, owner: Owner) -> None:
        """Start reading; everything goes to *owner*."""
        self._owner = owner
        self.resume()

    @property
    def closed(self) -> bool:
        """Whether nothing can be read or written any more."""
        return self._done.is_set()

    @property
    def unsent(self) -> int:
        """Characters that were written but that the client has not taken yet."""
        return self._unsent

    def take_fds(self) -> list[int]:
        """Return nothing: descriptors don't travel over HTTP."""
        return []

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self._reading.clear()

    def resume(self) -> None:
        """Read on."""
        self._reading.set()

    def write(self, data: bytes) -> None:
        """Send *data*, which is whole messages, each ended by CR LF."""
        if self.closed:
            return
        for message in data.decode().split("\r\n"):
            if message:
                self._frames.append(message)
                self._unsent += len(message)
        if self._frames:
            self._empty.clear()
            self._wake.set()

    async def flush_until(self, deadline: float) -> None:
        """Wait until all is sent, the channel is closed, or it is too late."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._empty.wait()

    def close(self) -> None:
        """Close at once; what is unsent is lost."""
        if self.closed:
            return
        self._done.set()
        self._frames.clear()
        self._unsent = 0
        self._empty.set()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.channel_closed()
        if self.on_close is not None:
            self.on_close()

    async def run(self) -> None:
        """Carry messages until either side closes."""
        parts = (self._read(), self._write(), self._done.wait())
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in parts]

        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._ws.close(code=WSCloseCode.GOING_AWAY)

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            message = await self._ws.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            data = message.data
            # A frame may have come for a monitor that was paused meanwhile: it keeps its place.
            await self._reading.wait()
            if self._owner is not None:
                self._owner.data_received(data.encode() if isinstance(data, str) else data)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                await self._ws.send_str(frame)
                self._unsent -= len(frame)
            self._empty.set()
            if self._owner is not None:
                self._owner.drained()


class ReplyChannel:
    """Keeps what is written, until there is nothing more to come: then `done` is set."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.done = asyncio.Event()
        self.unsent = 0
        self._owner: Owner | None = None

    def start(self, owner: Owner) -> None:
        """Remember who is to be told of the end."""
        self._owner = owner

    def receive(self, data: bytes) -> None:
        """Pass on bytes of the request."""
        if self._owner is not None:
            self._owner.data_received(data)

    def receive_eof(self) -> None:
        """Pass on that the request is complete."""
        if self._owner is not None:
            self._owner.eof_received()

    @property
    def closed(self) -> bool:
        """Whether nothing more is kept."""
        return self.done.is_set()

    def take_fds(self) -> list[int]:
        """Return nothing: descriptors don't travel over HTTP."""
        return []

    def pause(self) -> None:
        """Nothing is read here."""

    def resume(self) -> None:
        """Nothing is read here."""

    def write(self, data: bytes) -> None:
        """Keep *data*."""
        if not self.closed:
            self.replies.append(data)

    async def flush_until(self, deadline: float) -> None:
        """Nothing is left to be sent."""

    def close(self) -> None:
        """End; what was written stays."""
        if not self.closed:
            self.done.set()
            owner, self._owner = self._owner, None
            if owner is not None:
                owner.channel_closed()
