"""The value of `-http`, which is parsed before the machine exists, and without aiohttp."""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from importlib.util import find_spec
from typing import NamedTuple

from qmpserver.files import read_bytes
from qmpserver.keyval import OptionError, Options, kinds, parse_options
from qmpserver.monitor import InetAddress, UnixAddress

HTTP_OPTIONS = kinds(string="address token-file tls-cert tls-key")
LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535
_MAX_TOKEN = 4096
_NEEDED = ("aiohttp", "prometheus_client")


class HttpOptions(NamedTuple):
    """The parsed value of `-http`.

    Attributes:
        address: The address to listen on.
        token: The token that clients must send.
        made: Whether the token was generated, not read from a file.
        tls: The TLS context; None is plain HTTP.
    """

    address: InetAddress | UnixAddress
    token: str
    made: bool
    tls: ssl.SSLContext | None

    @property
    def proxied(self) -> bool:
        """Whether browsers connect through a proxy."""
        return isinstance(self.address, UnixAddress)

    @property
    def warning(self) -> str | None:
        """A warning about an insecure configuration, or None."""
        address = self.address
        if self.tls or isinstance(address, UnixAddress) or is_loopback(address.host):
            return None
        return "the token is sent unencrypted over the network; use tls-cert= and tls-key="


def parse_http(value: str) -> HttpOptions:
    """Parse `[HOST]:PORT` (the default host is loopback) or `unix:PATH`, and the options after it.

    Raises:
        OptionError: The value is invalid, a file cannot be read, or a package is not installed.
    """
    options = parse_options(value, HTTP_OPTIONS, implied="address")
    address = _address(options.string("address") or "")
    path = options.string("token-file")
    token = secrets.token_urlsafe(32) if path is None else _read_token(path)
    tls = _tls(options)
    if tls is not None and isinstance(address, UnixAddress):
        raise OptionError("tls-cert cannot be used with a UNIX socket; configure TLS in the proxy")
    for module in _NEEDED:
        if find_spec(module) is None:
            raise OptionError(f"{module} is not installed", "pip install 'qmpserver[http]'")
    return HttpOptions(address, token, path is None, tls)


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address is the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _address(text: str) -> InetAddress | UnixAddress:
    host, colon, port = text.rpartition(":")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise OptionError("'unix:' has no path; expected unix:PATH")
        return UnixAddress(path)
    if not colon or "/" in host or (":" in host and (host[0], host[-1]) != ("[", "]")):
        raise OptionError(
            f"invalid address '{text}'; expected HOST:PORT, such as {LOOPBACK}:8080, or unix:PATH"
        )
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise OptionError(f"invalid port '{port}'; expected a number from 0 to {_MAX_PORT}")
    return InetAddress(host.removeprefix("[").removesuffix("]") or LOOPBACK, port)


def _read_token(path: str) -> str:
    token = _read("token-file", path).strip()
    if not token:
        raise OptionError(f"token-file={path}: the file is empty; expected a line with the token")
    if len(token) > _MAX_TOKEN:  # no client could send it in a header
        raise OptionError(f"token-file={path}: the token has more than {_MAX_TOKEN} letters")
    if not all(0x20 < byte < 0x7F for byte in token):
        raise OptionError(f"token-file={path}: expected one line of printable ASCII without spaces")
    return token.decode("ascii")


def _tls(options: Options) -> ssl.SSLContext | None:
    cert, key = options.string("tls-cert"), options.string("tls-key")
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise OptionError(f"tls-{'key' if cert else 'cert'} is missing; both files are required")
    _read("tls-cert", cert, regular=True)  # OpenSSL reads it again
    _read("tls-key", key, regular=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password, OpenSSL would prompt for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "expected PEM, with a key without a password"
        raise OptionError(
            f"tls-cert={cert},tls-key={key}: {reason.replace('_', ' ').lower()}"
        ) from None
    return context


def _read(option: str, path: str, *, regular: bool = False) -> bytes:
    try:
        return read_bytes(path, regular=regular)
    except OSError as error:
        raise OptionError(f"{option}={path}: {error.strerror}") from None
