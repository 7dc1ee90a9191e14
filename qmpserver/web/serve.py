"""The listening socket of `-http`, and its connections."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from qmpserver.monitor import UnixAddress, sockets
from qmpserver.monitor.opening import listen_on
from qmpserver.web.address import is_loopback
from qmpserver.web.app import make_app
from qmpserver.web.frames import MaskedFrames
from qmpserver.web.qmp import GRACE
from qmpserver.web.security import Guard, Names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmpserver.monitor import Server
    from qmpserver.vm.machine.machine import Machine
    from qmpserver.web.address import HttpOptions

    _Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 128
MAX_HEAD = 32 << 10  # bytes of a connection's first request, without its body
MAX_REST = 1 << 20  # bytes behind it that are read before it is accepted; in fact few pieces
KERNEL_BUFFER = 64 << 10  # Linux doubles it, for its own bookkeeping
MAX_CONNECTIONS = 256
LOGIN_TIMEOUT = 10.0  # seconds for a new connection to send the token
IDLE_TIMEOUT = 75.0  # seconds between two requests on a connection
REFUSAL_GRACE = 0.1  # seconds for a stranger to read a refusal while its body is not read


_log = logging.getLogger(__name__)


class _ServerErrors(logging.Filter):
    """Drops records of clients' errors, whose text may contain the token."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | ConnectionError)


_log.addFilter(_ServerErrors())

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)
_CONNECTION: dict[str, Any] = {
    "access_log": None,
    "logger": _log,
    "keepalive_timeout": IDLE_TIMEOUT,
    "auto_decompress": False,
}


class _Connection(web.RequestHandler):
    """A connection that takes the head of one request until that had the token.

    A stranger costs no more than this head. What follows it is read after the request was
    accepted. The connection's WebSocket takes masked frames only.
    """

    __slots__ = ("_admitted", "_head", "_on_lost", "_rest")

    def __init__(self, *args: Any, on_lost: Callable[[_Connection], object], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_lost = on_lost
        self._admitted = False
        self._head: bytes | None = b""  # None when it was passed on
        self._rest = b""  # bytes that came after it

    def connection_lost(self, exc: BaseException | None) -> None:
        self._on_lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            super().data_received(data)
        elif self._head is None:  # read before the pause took effect
            self._rest += data
            if len(self._rest) > MAX_REST:
                self.force_close()
        else:
            head = (self._head + data).lstrip(b"\r\n")
            end = _END_OF_HEAD.search(head)
            size = len(head) if end is None else end.end()
            if size > MAX_HEAD:
                self._refuse()
            elif end is None:
                self._head = head
            else:
                self._head, self._rest = None, head[size:]
                self._set_reading(False)
                super().data_received(head[:size])

    def admit(self) -> None:
        """Read on: a request on this connection had the token."""
        if not self._admitted:
            self._admitted = True
            self._lingering_time = GRACE
            rest, self._rest = self._rest, b""
            self._set_reading(True)  # before flow control may pause it
            super().data_received(rest)

    def _set_reading(self, on: bool) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            (transport.resume_reading if on else transport.pause_reading)()

    def _refuse(self) -> None:
        transport = self.transport
        if transport is not None:
            transport.write(_HEAD_TOO_LONG)
        self.force_close()

    def set_parser(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        super().set_parser(MaskedFrames(parser), *args, **kwargs)  # type: ignore[arg-type]


class Site:
    """A running HTTP server; `url` is its address, without the token."""

    def __init__(self, url: str, guard: Guard, runner: web.AppRunner, sock: socket.socket) -> None:
        self.url = url
        self._unauthenticated: dict[_Connection, asyncio.TimerHandle] = {}
        guard.on_entry = self._authenticated
        self._runner = runner
        self._sock = sock
        self._file: sockets.SocketFile | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, options: HttpOptions) -> None:
        """Start accepting connections."""
        self._file = sockets.socket_file(options.address)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        server.request_handler = _with_ascii_expectation(server.request_handler)
        self._listener = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=self._sock,
            ssl=options.tls,
            ssl_handshake_timeout=LOGIN_TIMEOUT if options.tls else None,
        )

    @property
    def connections(self) -> int:
        """The number of open connections."""
        server = self._runner.server
        return len(server.connections) if server else 0

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or self.connections >= MAX_CONNECTIONS:
            return _Refused()
        loop = asyncio.get_running_loop()
        connection = _Connection(
            server,
            loop=loop,
            on_lost=self._forget,
            lingering_time=REFUSAL_GRACE,
            **_CONNECTION,
        )
        timer = loop.call_later(LOGIN_TIMEOUT, self._time_out, connection)
        self._unauthenticated[connection] = timer
        return connection

    def _authenticated(self, connection: web.RequestHandler) -> None:
        assert isinstance(connection, _Connection)
        if self._forget(connection):
            connection.admit()

    def _forget(self, connection: _Connection) -> bool:
        """Return whether no request on the connection has had the token so far."""
        timer = self._unauthenticated.pop(connection, None)
        if timer is None:
            return False
        timer.cancel()
        return True

    def _time_out(self, connection: _Connection) -> None:
        del self._unauthenticated[connection]
        if connection.transport is not None:
            connection.transport.abort()

    async def close(self) -> None:
        """Stop accepting, give requests in progress `GRACE` to end, and close all connections."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()
        for timer in self._unauthenticated.values():
            timer.cancel()
        sockets.remove(self._sock, self._file)


def _with_ascii_expectation(handler: _Handler) -> _Handler:
    """Return `handler` for requests whose `Expect` is ASCII, which aiohttp assumes.

    It looks at this header before the guard sees the request.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            raise web.HTTPBadRequest(text="Expect must be ASCII\n")
        return await handler(request)

    return handle


class _Refused(asyncio.Protocol):
    """A connection beyond `MAX_CONNECTIONS`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once."""
        transport.close()


async def serve(server: Server, machine: Machine, options: HttpOptions) -> Site:
    """Listen, and return the site, which the caller closes.

    Raises:
        DeviceError: The address cannot be listened on; the text is QEMU's.
    """
    sock = await listen_on(options.address, BACKLOG)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)  # connections inherit it
    url, names = _names(options, sock)
    guard = Guard(options.token, names)
    runner = web.AppRunner(make_app(server, machine, guard), shutdown_timeout=GRACE)
    site = Site(url, guard, runner, sock)
    try:
        await site.start(options)
    except BaseException:
        await site.close()
        raise
    return site


def _names(options: HttpOptions, sock: socket.socket) -> tuple[str, Names | None]:
    address = options.address
    if isinstance(address, UnixAddress):
        return f"unix:{address.path}", None
    scheme = "https" if options.tls else "http"
    host = f"[{address.host}]" if ":" in address.host else address.host
    port = sock.getsockname()[1]
    hosts = {host.lower(), "localhost", "127.0.0.1", "[::1]"}
    if elsewhere := not is_loopback(address.host):
        hosts.add(socket.gethostname().lower())
    return f"{scheme}://{host}:{port}/", Names(scheme, hosts, elsewhere, port)
