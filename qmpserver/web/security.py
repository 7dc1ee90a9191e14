"""Who may ask what: Host, Origin and the token.  The rules hold for every request."""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING

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

_NEEDED = (
    "the token is needed: open the link that was shown at start, "
    "or send 'Authorization: Bearer TOKEN'\n"
)


class Guard:
    """Lets through what may pass.

    Args:
        token: what a client has to know.
        scheme: ``http`` or ``https``.
        names: the hosts by which this server is known, in lower case.
        port: where it listens.
        any_address: whether every IP address may be its own.

    """

    def __init__(
        self,
        token: str,
        *,
        scheme: str,
        names: Collection[str],
        port: int,
        any_address: bool,
    ) -> None:
        self._token = token.encode()
        self._scheme = scheme
        self._names = names
        self._ports = {f":{port}"} | ({""} if port == {"http": 80, "https": 443}[scheme] else set())
        self._any_address = any_address
        # Browsers send a cookie to all ports of a host: two servers must not take the same one.
        self.cookie = f"qmpserver-{port}"

    def protect(self, app: web.Application) -> None:
        """See every request to *app* first, and what it answers last."""
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(_add_headers)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._check_sender(request)
        given = request.query.get("token") if request.path == "/" else None
        if given is not None and request.method == "GET":
            raise self._welcome(given)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.cookies.get(self.cookie, "")
        if not self._knows(given.strip()):
            raise web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    def _check_sender(self, request: web.Request) -> None:
        """Refuse what the page of another server has a browser send."""
        host = request.headers.get("Host", "").lower()
        if not self._is_own(host):  # a name of the page's own, resolved to this address
            raise web.HTTPMisdirectedRequest(text=f"this server is not '{host}'\n")
        for origin in request.headers.getall("Origin", []):
            if origin.lower() != f"{self._scheme}://{host}":
                raise web.HTTPForbidden(text="requests from other pages are refused\n")

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, colon, port = host, "", ""
        if colon + port not in self._ports:
            return False
        return name in self._names or (self._any_address and _is_address(name))

    def _welcome(self, given: str) -> web.HTTPException:
        if not self._knows(given):
            return web.HTTPUnauthorized(text=_NEEDED, headers={"WWW-Authenticate": "Bearer"})
        response = web.HTTPSeeOther("/")
        response.set_cookie(
            self.cookie,
            given,
            httponly=True,
            samesite="Strict",
            secure=self._scheme == "https",
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
