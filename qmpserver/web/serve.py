"""The listening socket that ``-http`` asks for, and the server behind it."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from qmpserver.monitor import sockets
from qmpserver.web.app import make_app
from qmpserver.web.qmp import GRACE
from qmpserver.web.security import Guard

if TYPE_CHECKING:
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Server
    from qmpserver.web.address import HttpOptions

BACKLOG = 128


class Site(NamedTuple):
    """A running server, and its address."""

    runner: web.AppRunner
    url: str


async def serve(server: Server, machine: Machine, options: HttpOptions) -> Site:
    """Listen; whoever calls must end it by its runner's ``cleanup``.

    Raises:
        DeviceError: It can't be listened on, in QEMU's words.
    """
    address = options.address
    sock = sockets.listen(address, BACKLOG)
    shown = f"[{address.host}]" if ":" in address.host else address.host
    port = sock.getsockname()[1]
    names = {shown.lower(), "localhost"}
    if not (loopback := _is_loopback(address.host)):
        names.add(socket.gethostname().lower())
    guard = Guard(options.token, scheme="http", names=names, port=port, any_address=not loopback)
    app = make_app(server, machine, guard)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
    try:
        await runner.setup()
        await web.SockSite(runner, sock).start()
    except BaseException:
        sock.close()
        await runner.cleanup()
        raise
    return Site(runner, f"http://{shown}:{port}/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
