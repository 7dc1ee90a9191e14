"""What ``-http`` takes.  Read before there is a machine, and without aiohttp."""

from __future__ import annotations

import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from qmpserver.monitor import InetAddress
from qmpserver.options import OptionError, kinds, parse_options

HTTP_OPTIONS = kinds(string="address token-file")
LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535
_NEEDED = ("aiohttp",)


class HttpOptions(NamedTuple):
    """Where to listen, and what a client has to know; `made` if the token was made here."""

    address: InetAddress
    token: str
    made: bool


def parse_http(value: str) -> HttpOptions:
    """Read ``[HOST]:PORT[,token-file=FILE]``; without a host it is loopback.

    Raises:
        OptionError: What is wrong with it, or not there.
    """
    options = parse_options(value, HTTP_OPTIONS, implied="address")
    address = _address(options.string("address") or "")
    path = options.string("token-file")
    token = secrets.token_urlsafe(32) if path is None else _read_token(path)
    for module in _NEEDED:
        if find_spec(module) is None:
            raise OptionError(f"{module} is not installed", "pip install 'qmpserver[http]'")
    return HttpOptions(address, token, made=path is None)


def _address(text: str) -> InetAddress:
    host, colon, port = text.rpartition(":")
    if not colon or "/" in host or (":" in host and (host[0], host[-1]) != ("[", "]")):
        raise OptionError(f"'{text}' is no address; expected HOST:PORT, as {LOOPBACK}:8080")
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise OptionError(f"'{port}' is no port; expected a number from 0 to {_MAX_PORT}")
    return InetAddress(host.removeprefix("[").removesuffix("]") or LOOPBACK, port)


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise OptionError(f"token-file={path}: {error.strerror}") from None
    if not token:
        raise OptionError(f"token-file={path}: the file is empty; expected a line with the token")
    if not all(0x20 < byte < 0x7F for byte in token):
        raise OptionError(f"token-file={path}: expected one line of printable ASCII without spaces")
    return token.decode("ascii")
