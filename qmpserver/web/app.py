"""The routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from qmpserver.web.channel import WebSocketChannel

if TYPE_CHECKING:
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Client, Server
    from qmpserver.web.security import Guard

MAX_MESSAGE = 1 << 20
GRACE = 1.0  # seconds that clients have to read when the server ends


def make_app(server: Server, machine: Machine, guard: Guard) -> web.Application:
    """Return the application; *guard* sees every request first."""
    clients: set[Client] = set()

    async def qmp(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, heartbeat=30, compress=False)
        await ws.prepare(request)
        channel = WebSocketChannel(ws)
        client = server.connect(channel, "http")
        clients.add(client)
        try:
            await channel.run()
        finally:
            clients.discard(client)
        return ws

    async def finish(_app: web.Application) -> None:
        deadline = asyncio.get_running_loop().time() + GRACE
        await asyncio.gather(*(client.finish(deadline) for client in clients))

    app = web.Application(client_max_size=MAX_MESSAGE)
    guard.protect(app)
    app.on_shutdown.append(finish)
    app.router.add_get("/qmp", qmp)
    return app
