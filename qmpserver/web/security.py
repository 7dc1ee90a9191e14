"""Access control for every request: `Host`, `Origin` and the token."""

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
"""Headers of every response."""

_HANDSHAKE = ("Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MISDIRECTED = "unknown Host: use the host in the link that was shown at start\n"
_NEEDED = (
    "the token is required: open the link that was shown at start, "
    "or send 'Authorization: Bearer TOKEN'\n"
)


class Names(NamedTuple):
    """The valid values of `Host`: names in lower case, and any IP address if `any_address`."""

    scheme: str
    hosts: Collection[str]
    any_address: bool
    port: int

    def has(self, host: str) -> bool:
        """Return whether a value of `Host`, in lower case, is valid."""
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, str(_DEFAULT_PORTS[self.scheme])
        if port != str(self.port):
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


class Guard:
    """Checks each request, and refuses those without access.

    Args:
        token: The token that clients must send.
        names: The valid values of `Host`; None if a proxy checks it.

    Attributes:
        cookie: The name of the cookie with the token.
        on_entry: Called with the connection of each accepted request.
    """

    def __init__(self, token: str, names: Names | None) -> None:
        self._token = token.encode()
        self._names = names
        # Browsers send a cookie to all ports of a host, so each server needs a name of its own.
        self.cookie = f"qmpserver-{names.port}" if names else "qmpserver"
        self.on_entry: Callable[[web.RequestHandler], None] = lambda _connection: None

    def protect(self, app: web.Application) -> None:
        """Check every request to `app`, and add headers to every response."""
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(_add_headers)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
        except web.HTTPException as refusal:
            refusal.force_close()  # nothing more is read from a stranger
            raise
        return await handler(request)

    def _check(self, request: web.Request) -> None:
        self._check_sender(request)
        for name in _HANDSHAKE:  # aiohttp assumes that these are ASCII
            if not request.headers.get(name, "").isascii():
                raise web.HTTPBadRequest(text=f"{name} must be ASCII\n")
        given = request.query.get("token") if request.path == "/" else None
        if given is not None and request.method == "GET":
            raise self._log_in(request, given)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.cookies.get(self.cookie, "")
        if not self._knows(given.strip()):
            raise web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        self.on_entry(request.protocol)

    def _check_sender(self, request: web.Request) -> None:
        """Refuse requests that a page of another server makes a browser send."""
        host = request.headers.get("Host", "").lower()
        names = self._names
        if names and not names.has(
            host
        ):  # DNS rebinding: another name that resolves to this address
            raise web.HTTPMisdirectedRequest(text=_MISDIRECTED)
        for origin in request.headers.getall("Origin", []):
            scheme, _, origin_host = origin.lower().partition("://")
            if origin_host != host or (names and scheme != names.scheme):
                raise web.HTTPForbidden(text="requests from other pages are refused\n")

    def _log_in(self, request: web.Request, given: str) -> web.HTTPException:
        if not self._knows(given):
            return web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        scheme = self._names.scheme if self._names else request.headers.get("X-Forwarded-Proto", "")
        response = web.HTTPSeeOther("/")
        response.set_cookie(
            self.cookie, given, httponly=True, samesite="Strict", secure=scheme == "https"
        )
        return response

    def _knows(self, token: str) -> bool:
        """Return whether it is the token, in constant time."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
