"""The application: all routes, behind the guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from qmpserver.web.dashboard import Dashboard
from qmpserver.web.live import Live
from qmpserver.web.metrics import Metrics
from qmpserver.web.qmp import Monitors

if TYPE_CHECKING:
    from qmpserver.monitor import Server
    from qmpserver.vm.machine.machine import Machine
    from qmpserver.web.security import Guard


def make_app(server: Server, machine: Machine, guard: Guard) -> web.Application:
    """Return the application; `guard` checks every request first."""
    app = web.Application()
    guard.protect(app)
    Monitors(server).add_routes(app)
    Live(machine).add_routes(app)
    Dashboard(server.registry.schema).add_routes(app)
    Metrics(server, machine).add_routes(app)
    return app
