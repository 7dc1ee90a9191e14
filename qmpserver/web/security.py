"""Who may ask what: Host, Origin and the token.  The rules hold for every request."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "qmpserver-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """Lets through what may pass.

    Args:
        token: what a client has to know.
        hosts: the values of `Host`, in lower case, that name this server; a page that had
            its own name resolved to this address sends another.
    """

    def __init__(self, token: str, hosts: Collection[str]) -> None:
        if not token:
            raise ValueError("the token is empty")
        self._token = token.encode()
        self._hosts = hosts

    def knows(self, token: str) -> bool:
        """Tell whether it is the token, in a time that says nothing of it."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)

    def check(self, request: web.Request) -> None:
        """Refuse a request.

        Raises:
            web.HTTPException: It may not pass.
        """
        host = request.headers.get("Host", "").lower()
        if host not in self._hosts:
            raise web.HTTPMisdirectedRequest(text=f"this server is not '{host}'\n")
        for origin in request.headers.getall("Origin", []):
            if origin.lower() != f"{request.scheme}://{host}":
                raise web.HTTPForbidden(text="requests from other pages are refused\n")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.cookies.get(COOKIE, "")
        if not self.knows(given):
            raise web.HTTPUnauthorized(
                text="the token is needed\n", headers={"WWW-Authenticate": "Bearer"}
            )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the request first, and add what browsers are to keep to."""
        try:
            self.check(request)
            response = await handler(request)
        except web.HTTPException as error:
            _add_headers(error)
            raise
        if not response.prepared:
            _add_headers(response)
        return response


def _add_headers(response: web.StreamResponse) -> None:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
