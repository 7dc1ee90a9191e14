"""Broadcast of frames to many WebSockets, with bounded memory and without waiting for any."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LISTENERS = 32
KERNEL_BUFFER = 64 << 10  # Linux doubles it, for its own bookkeeping


class Broadcast:
    """WebSockets that receive frames and whose messages are ignored.

    A WebSocket that has not read the previous frame skips the next ones: a stalled browser costs
    one frame here, and `KERNEL_BUFFER` in the kernel. Belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._listeners: dict[web.WebSocketResponse, web.Request] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    async def serve(
        self, request: web.Request, first: bytes, joined: Callable[[], None]
    ) -> web.WebSocketResponse:
        """Accept a WebSocket, send it `first` and call `joined`; return when it has closed.

        Raises:
            web.HTTPException: The request is not a WebSocket's, or `MAX_LISTENERS` are open.
        """
        ws = web.WebSocketResponse(max_msg_size=1024, heartbeat=30, compress=False)
        if not ws.can_prepare(request):
            raise web.HTTPUpgradeRequired(
                text="expected a WebSocket handshake\n", headers={"Upgrade": "websocket"}
            )
        if len(self) >= MAX_LISTENERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_LISTENERS} WebSockets are open already\n")
        self._listeners[ws] = request
        try:
            await ws.prepare(request)
            if request.transport is not None:
                sock = request.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
            await ws.send_frame(first, WSMsgType.TEXT)
            joined()
            async for _ in ws:
                pass  # messages are ignored
        finally:
            del self._listeners[ws]
        return ws

    async def send(self, frame: bytes) -> None:
        """Send `frame`, which is JSON text, to each WebSocket that has read the previous one."""
        for ws, request in tuple(self._listeners.items()):
            transport = request.transport
            if ws.prepared and transport is not None and not transport.get_write_buffer_size():
                with contextlib.suppress(ConnectionError):  # `serve` notices the end
                    await ws.send_frame(frame, WSMsgType.TEXT)

    async def close(self) -> None:
        """Close all WebSockets."""
        for ws in tuple(self._listeners):
            await ws.close(code=WSCloseCode.GOING_AWAY)
