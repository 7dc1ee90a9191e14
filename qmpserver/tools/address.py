"""Addresses of QMP servers, `unix:PATH` or `tcp:HOST:PORT`, and the option that takes them."""

from __future__ import annotations

import argparse
import errno
import glob
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from qmpserver.tools.errors import UsageError

PATH_ROOM = 108 if sys.platform == "linux" else 104  # bytes, with the zero at the end


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A UNIX socket's path, or a TCP host and port."""

    where: str | tuple[str, int]

    def __str__(self) -> str:
        if isinstance(self.where, str):
            return f"unix:{self.where}"
        return "tcp:{}:{}".format(*self.where)

    def connect(self, timeout: float) -> socket.socket:
        """Return a connection; `timeout`, in seconds, is set on it too.

        Raises:
            OSError: There is nothing to connect to.
        """
        if not isinstance(self.where, str):
            try:
                return socket.create_connection(self.where, timeout)
            except UnicodeError:  # such as an empty label
                raise OSError(errno.EINVAL, "not a host name") from None
        client = socket.socket(socket.AF_UNIX)
        try:
            client.settimeout(timeout)
            client.connect(self.where)
        except OSError:
            client.close()
            raise
        return client


def address(text: str) -> ServerAddress:
    """Return the address that `text` is.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        if len(os.fsencode(rest)) >= PATH_ROOM:
            raise argparse.ArgumentTypeError(
                f"UNIX socket path '{rest}' is too long: it must be less than {PATH_ROOM} bytes"
            )
        return ServerAddress(rest)
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdecimal() and 0 < int(port) < 1 << 16:
        return ServerAddress((host.removeprefix("[").removesuffix("]"), int(port)))
    raise argparse.ArgumentTypeError(f"'{text}' is neither unix:PATH nor tcp:HOST:PORT")


def complete_addresses(prefix: str, **_: object) -> list[str]:
    """Return addresses that begin with `prefix`: sockets, and directories that lead to them."""
    kind, _colon, path = prefix.partition(":")
    if kind != "unix":
        return [word for word in ("unix:", "tcp:") if word.startswith(prefix)]
    found = map(Path, glob.glob(glob.escape(path) + "*"))
    return [
        f"unix:{p}/" if p.is_dir() else f"unix:{p}" for p in found if p.is_dir() or p.is_socket()
    ]


def add_qmp(parser: argparse.ArgumentParser, *, dest: str = "qmp_here") -> None:
    """Add the option that names a server; it may be given before the command or after it."""
    qmp = parser.add_argument(
        "--qmp",
        dest=dest,
        action="append",
        type=address,
        default=[],
        metavar="ADDRESS",
        help="the server: unix:PATH or tcp:HOST:PORT",
    )
    qmp.completer = complete_addresses  # type: ignore[attr-defined]


def servers(args: argparse.Namespace) -> list[ServerAddress]:
    """Return the servers that were named."""
    return [*args.qmp, *args.qmp_here]


def server(args: argparse.Namespace) -> ServerAddress:
    """Return the one server that was named.

    Raises:
        UsageError: None was named, or several.
    """
    named = servers(args)
    if len(named) != 1:
        raise UsageError("give one --qmp unix:PATH or --qmp tcp:HOST:PORT")
    return named[0]
