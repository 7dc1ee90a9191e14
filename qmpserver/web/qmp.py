"""QMP over HTTP: a session over a WebSocket, or a single command by POST."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from qmpserver.monitor.channel import READ_SIZE
from qmpserver.qmp import MAX_TOKEN_SIZE, CommandError, Large, Parser, error_message
from qmpserver.web.channel import ReplyChannel, WebSocketChannel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import NoReturn

    from qmpserver.monitor import Client, Server

MAX_WEBSOCKETS = 32
MAX_FRAME = 1 << 20
MAX_BODIES = 2 * MAX_TOKEN_SIZE  # bytes, of all requests that are read or executed
BODY_TIMEOUT = 30.0  # seconds between two parts of a body
GRACE = 1.0  # seconds for commands in progress and for clients to read, at shutdown

_NEGOTIATION = b'{"execute": "qmp_capabilities"}\n'


class Monitors:
    """The QMP monitors behind HTTP; their clients are clients of `server`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients: set[Client] = set()
        self._websockets = 0
        self._held = 0  # bytes of the bodies of all requests
        self._ending = False

    def add_routes(self, app: web.Application) -> None:
        """Serve `/qmp`; finish the clients when `app` shuts down."""
        app.router.add_get("/qmp", self._websocket, allow_head=False)
        app.router.add_post("/qmp", self._post)
        app.on_shutdown.append(self._finish)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=MAX_FRAME, heartbeat=30, compress=False)
        if not ws.can_prepare(request):
            raise web.HTTPUpgradeRequired(
                text="expected a WebSocket handshake, or a POST of a single command\n",
                headers={"Upgrade": "websocket"},
            )
        if self._websockets >= MAX_WEBSOCKETS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_WEBSOCKETS} WebSockets are open already\n")
        self._websockets += 1
        client: Client | None = None
        try:
            await ws.prepare(request)
            channel = WebSocketChannel(ws)
            client = self._server.connect(channel, "http")
            self._clients.add(client)
            await channel.run()
        finally:
            self._websockets -= 1
            _drop_unread(request)
            if client is not None:
                self._clients.discard(client)
        return ws

    async def _post(self, request: web.Request) -> web.Response:
        """Execute the command in the body, in a session of its own."""
        if request.content_type != "application/json":  # an HTML form cannot send this type
            raise web.HTTPUnsupportedMediaType(text="Content-Type must be application/json\n")
        with self._holding() as hold:
            return await self._execute(await _read_command(request, hold))

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that is told of a body's bytes, and that refuses too many of all."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held + size > MAX_BODIES:
                raise web.HTTPServiceUnavailable(text="too many long commands at a time\n")
            self._held += size
            held += size

        try:
            yield hold
        finally:
            self._held -= held

    async def _execute(self, parts: list[bytes]) -> web.Response:
        channel = ReplyChannel()
        client = self._server.connect(channel, "http", events=False)
        self._clients.add(client)
        try:
            channel.receive(_NEGOTIATION)
            channel.replies.clear()
            for part in parts:
                channel.receive(part)
                await asyncio.sleep(0)
            channel.receive_eof()
            await channel.done.wait()
        finally:
            self._clients.discard(client)
            channel.close()
        if channel.replies:
            return _json(channel.replies)
        if self._ending:
            raise web.HTTPServiceUnavailable(text="the server ended before the command completed\n")
        raise web.HTTPNoContent  # a command that sends no reply on success

    async def _finish(self, _app: web.Application) -> None:
        self._ending = True
        await asyncio.gather(*(client.close(GRACE) for client in self._clients))


def _drop_unread(request: web.Request) -> None:
    """Abort the connection of a client that does not read: closing it would wait for the client."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()


async def _read_command(request: web.Request, hold: Callable[[int], None]) -> list[bytes]:
    """Read the parts of the body, which must be one JSON value, as large as on a socket.

    Between steps, other clients are served.
    """
    parser = Parser()
    messages: list[object] = []
    try:
        return await _read_parts(request, parser, messages, hold)
    finally:
        large = (one.tape.release() for one in messages if isinstance(one, Large))
        for _ in itertools.chain(parser.release(), *large):
            await asyncio.sleep(0)


async def _read_parts(
    request: web.Request, parser: Parser, messages: list[object], hold: Callable[[int], None]
) -> list[bytes]:
    parts: list[bytes] = []
    size = 0
    _check_size(request.content_length or 0)
    while True:
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                part = await request.content.read(READ_SIZE)
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="timeout while reading the body\n") from None
        parts.append(part or b"\n")  # a number ends only at a delimiter
        hold(len(part))
        size += len(parts[-1])
        _check_size(size)
        for some in parser.steps(parts[-1]):
            messages += some
            await asyncio.sleep(0)
        if messages and isinstance(messages[0], CommandError):
            _refuse(messages[0])
        if len(messages) > 1 or (not part and not (messages and parser.idle)):
            _refuse(CommandError("Expecting one command in the body"))
        if not part:
            return parts


def _check_size(size: int) -> None:
    if size > MAX_TOKEN_SIZE:
        raise web.HTTPRequestEntityTooLarge(MAX_TOKEN_SIZE, size)


def _refuse(error: CommandError) -> NoReturn:
    raise web.HTTPBadRequest(text=error_message(error).decode(), content_type="application/json")


def _json(replies: list[bytes]) -> web.Response:
    body = b"".join(replies) if sum(map(len, replies)) <= MAX_FRAME else _sent(replies)
    return web.Response(body=body, content_type="application/json")


async def _sent(replies: list[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts of a large reply."""
    for part in replies:
        yield part
        await asyncio.sleep(0)
