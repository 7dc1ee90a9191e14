"""The page at `/`: static files, and the help texts of its console."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from qmpserver.web.help import describe

if TYPE_CHECKING:
    from qmpserver.qapi import Schema

STATIC = Path(__file__).parent / "static"


class Dashboard:
    """The page and its resources; `schema` declares the commands of its console."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def add_routes(self, app: web.Application) -> None:
        """Serve `/`, `/static` and `/help`."""
        app.router.add_get("/", self._page)
        app.router.add_static("/static", STATIC)
        app.router.add_get("/help", self._help)

    async def _page(self, _request: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _help(self, _request: web.Request) -> web.Response:
        body = orjson.dumps(describe(self._schema))
        return web.Response(body=body, content_type="application/json")
