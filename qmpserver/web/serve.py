"""What ``-http`` takes, and the listening socket that it opens."""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from qmpserver.options import OptionError, kinds, parse_options
from qmpserver.web.app import GRACE, make_app
from qmpserver.web.security import Guard

if TYPE_CHECKING:
    from qmpserver.monitor import Server

HTTP_OPTIONS = kinds(string="address token-file")


class Http(NamedTuple):
    """The server and how to get in; `new_token` is to be shown, once, where it was made here."""

    runner: web.AppRunner
    address: str
    new_token: str | None


async def serve(server: Server, value: str) -> Http:
    """Listen as *value* says: ``HOST:PORT[,token-file=FILE]``.

    Raises:
        OptionError: It makes no sense, or can't be listened on.
    """
    options = parse_options(value, HTTP_OPTIONS, implied="address")
    host, colon, port = (options.string("address") or "").rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise OptionError("expected HOST:PORT, as 127.0.0.1:8080")
    host = host.removeprefix("[").removesuffix("]")
    if not _is_loopback(host):
        raise OptionError(f"{host} is no loopback address, as 127.0.0.1 is")
    path = options.string("token-file")
    token = secrets.token_urlsafe(32) if path is None else _read_token(path)
    hosts: set[str] = set()
    runner = web.AppRunner(
        make_app(server, Guard(token, hosts)), access_log=None, shutdown_timeout=GRACE
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise OptionError(f"Failed to listen: {error.strerror or error}") from None
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    hosts.update(f"{name}:{bound}".lower() for name in (shown, "localhost"))
    return Http(runner, f"http://{shown}:{bound}", token if path is None else None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"token-file={path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not token:
        raise OptionError(f"token-file={path}: the file is empty")
    return token
