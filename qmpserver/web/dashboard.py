"""The page at `/`: static files, and the help texts of its console.

The files are read at the start: no path of a client's is looked up in the file system.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from qmpserver.web.help import describe

if TYPE_CHECKING:
    from qmpserver.qapi import Schema

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Dashboard:
    """The page and its resources; `schema` declares the commands of its console."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._files = {
            path.relative_to(STATIC).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
            for path in STATIC.rglob("*")
            if path.suffix in _TYPES
        }

    def add_routes(self, app: web.Application) -> None:
        """Serve `/`, `/static` and `/help`."""
        app.router.add_get("/", self._page)
        app.router.add_get("/static/{name:.*}", self._static)
        app.router.add_get("/help", self._help)

    async def _page(self, _request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound
        body, content_type = self._files[name]
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    async def _help(self, _request: web.Request) -> web.Response:
        body = json.dumps(describe(self._schema)).encode()
        return web.Response(body=body, content_type="application/json")
