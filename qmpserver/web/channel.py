"""The channels of QMP over HTTP: a WebSocket, or the response to one request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from qmpserver.monitor.channel import WholeMessages

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor.channel import Owner

_CLOSE_TIMEOUT = 0.5  # seconds for a client to answer the closing handshake; less than `GRACE`


class WebSocketChannel:
    """One client's WebSocket; each frame is one QMP message, in both directions.

    `unsent` counts the characters that the client has not read, as on a socket.
    """

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._owner: Owner | None = None
        self._frames: deque[str] = deque()
        self._whole = WholeMessages()
        self._unsent = 0
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._done = asyncio.Event()
        self.on_close: Callable[[], None] | None = None

    def start(self, owner: Owner) -> None:
        """Start reading; `owner` receives the data."""
        self._owner = owner
        self.resume()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        return self._done.is_set()

    @property
    def unsent(self) -> int:
        """The number of written characters that the client has not read."""
        return self._unsent

    def take_fds(self) -> list[int]:
        """Return an empty list: HTTP does not pass file descriptors."""
        return []

    def pause(self) -> None:
        """Stop reading until `resume`."""
        self._reading.clear()

    def resume(self) -> None:
        """Continue reading."""
        self._reading.set()

    def write(self, data: bytes) -> None:
        """Send `data`: whole messages, each terminated by CR LF, or a part of a large one."""
        if self.closed:
            return
        for message in self._whole.add(data).decode().split("\r\n"):
            if message:
                self._frames.append(message)
                self._unsent += len(message)
        if self._frames:
            self._empty.clear()
            self._wake.set()

    async def flush_until(self, deadline: float) -> None:
        """Wait until all data is sent or the channel is closed, at most until `deadline`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._empty.wait()

    def close(self) -> None:
        """Close at once, and drop unsent data."""
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
        """Transfer messages until either side closes."""
        coroutines = (self._read(), self._write(), self._done.wait())
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one) for one in coroutines]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._ws.close(code=WSCloseCode.GOING_AWAY)

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            message = await self._ws.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            data = message.data
            # The monitor may have been paused meanwhile; the frame then waits here.
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
    """Collects the replies to one request; `done` is set after the last one."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.done = asyncio.Event()
        self.unsent = 0
        self._owner: Owner | None = None

    def start(self, owner: Owner) -> None:
        """Set the owner, which is notified of the end."""
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
        """Whether the channel is closed."""
        return self.done.is_set()

    def take_fds(self) -> list[int]:
        """Return an empty list: HTTP does not pass file descriptors."""
        return []

    def pause(self) -> None:
        """Do nothing: the channel reads nothing."""

    def resume(self) -> None:
        """Do nothing: the channel reads nothing."""

    def write(self, data: bytes) -> None:
        """Append `data` to the replies."""
        if not self.closed:
            self.replies.append(data)

    async def flush_until(self, deadline: float) -> None:
        """Return at once: the channel sends nothing."""

    def close(self) -> None:
        """Close the channel and keep the replies."""
        if not self.closed:
            self.done.set()
            owner, self._owner = self._owner, None
            if owner is not None:
                owner.channel_closed()
