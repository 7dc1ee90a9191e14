"""Who may ask what: Host, Origin and the token.  The rules hold for every request."""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What browsers are told with every response."""

_HANDSHAKE = ("Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MISDIRECTED = "this server has another name: that in the link that was shown at start\n"
_NEEDED = (
    "the token is needed: open the link that was shown at start, "
    "or send 'Authorization: Bearer TOKEN'\n"
)


class Names(NamedTuple):
    """What browsers call this server: its hosts, in lower case, and maybe any IP address."""

    scheme: str
    hosts: Collection[str]
    any_address: bool
    port: int

    def has(self, host: str) -> bool:
        """Tell whether a value of `Host`, in lower case, is one of them."""
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, str(_DEFAULT_PORTS[self.scheme])
        if port != str(self.port):
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


class Guard:
    """Lets through what may pass.

    Args:
        token: what a client has to know.
        names: what `Host` may say; None if that is for a proxy in front to check.

    Attributes:
        on_entry: called with the connection of each request that is let through.

    """

    def __init__(self, token: str, names: Names | None) -> None:
        self._token = token.encode()
        self._names = names
        # Browsers send a cookie to all ports of a host: two servers must not take the same one.
        self.cookie = f"qmpserver-{names.port}" if names else "qmpserver"
        self.on_entry: Callable[[web.RequestHandler], None] = lambda _connection: None

    def protect(self, app: web.Application) -> None:
        """See every request to *app* first, and what it answers last."""
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(_add_headers)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._check_sender(request)
        for name in _HANDSHAKE:  # of which aiohttp believes it
            if not request.headers.get(name, "").isascii():
                raise web.HTTPBadRequest(text=f"{name} must be ASCII\n")
        given = request.query.get("token") if request.path == "/" else None
        if given is not None and request.method == "GET":
            raise self._welcome(request, given)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.cookies.get(self.cookie, "")
        if not self._knows(given.strip()):
            raise web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        self.on_entry(request.protocol)
        return await handler(request)

    def _check_sender(self, request: web.Request) -> None:
        """Refuse what the page of another server has a browser send."""
        host = request.headers.get("Host", "").lower()
        names = self._names
        if names and not names.has(host):  # a name of the page's own, resolved to this address
            raise web.HTTPMisdirectedRequest(text=_MISDIRECTED)
        for origin in request.headers.getall("Origin", []):
            scheme, _, origin_host = origin.lower().partition("://")
            if origin_host != host or (names and scheme != names.scheme):
                raise web.HTTPForbidden(text="requests from other pages are refused\n")

    def _welcome(self, request: web.Request, given: str) -> web.HTTPException:
        if not self._knows(given):
            return web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        scheme = self._names.scheme if self._names else request.headers.get("X-Forwarded-Proto", "")
        response = web.HTTPSeeOther("/")
        response.set_cookie(
            self.cookie, given, httponly=True, samesite="Strict", secure=scheme == "https"
        )
        return response

    def _knows(self, token: str) -> bool:
        """Tell whether it is the token, in a time that says nothing of it."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
