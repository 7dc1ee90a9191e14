"""The address of a migration's stream: a URI or a list of channels, parsed and checked.

Nothing is opened here. QEMU's forms that this server cannot open, `vsock:` and `rdma:`, are refused
as by a QEMU that was built without them.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.keyval import OptionError, kinds, parse_options, parse_size
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qmpserver.migration.status import Side


class UnixAddress(NamedTuple):
    """A Unix socket; the path begins with NUL in the abstract namespace."""

    path: str


class TcpAddress(NamedTuple):
    """A TCP socket.

    Attributes:
        host: The host's name or address.
        port: The port's number or name.
        to: To listen: the last port to try; None for `port` alone.
        ipv4: Whether to use IPv4; None if unsaid.
        ipv6: Whether to use IPv6; None if unsaid.
    """

    host: str
    port: str
    to: int | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None


class FdAddress(NamedTuple):
    """A descriptor: the name that `getfd` gave it, or its number on the command line."""

    name: str


class ExecAddress(NamedTuple):
    """A command whose standard input or output carries the stream."""

    argv: tuple[str, ...]


class FileAddress(NamedTuple):
    """A file, and the position in it where the stream begins, in bytes."""

    path: str
    offset: int = 0


Address = UnixAddress | TcpAddress | FdAddress | ExecAddress | FileAddress


def parse_address(
    uri: str | None, channels: Sequence[Mapping[str, Any]] | None, side: Side
) -> Address:
    """Return the address that the arguments of `migrate` or `migrate-incoming` name.

    Args:
        uri: The URI, if given.
        channels: The channels, if given: objects of the schema's type `MigrationChannel`.
        side: Which of the two commands it is.

    Raises:
        CommandError: Both or neither are given, or the given one is not valid.
    """
    if uri is not None and not channels:
        return parse_uri(uri)
    if uri is None and channels:
        return parse_channels(channels, side)
    raise CommandError("need either 'uri' or 'channels' argument")


def parse_uri(uri: str) -> Address:
    """Return the address in a URI such as `tcp:HOST:PORT`.

    Raises:
        CommandError: The protocol is unknown, or the rest is not valid.
    """
    protocol, colon, rest = uri.partition(":")
    match protocol if colon else None:
        case "unix":
            if not rest:
                raise CommandError("invalid Unix socket address")
            return UnixAddress(rest)
        case "tcp":
            return _parse_inet(rest)
        case "fd":
            if not rest:
                raise CommandError("invalid file descriptor address")
            return FdAddress(rest)
        case "exec":
            return ExecAddress(("/bin/sh", "-c", rest))
        case "file":
            return _parse_file(rest)
        case "vsock":
            found = re.match(_VSOCK, rest)
            if found is None:
                raise CommandError(f"error parsing address '{rest}'")
            if found.end() < len(rest):
                raise CommandError(f"trailing characters in address '{rest}'")
            raise CommandError(_NO_VSOCK)
    raise CommandError(f"unknown migration protocol: {uri}")


def parse_channels(channels: Sequence[Mapping[str, Any]], side: Side = "source") -> Address:
    """Return the address of the main channel.

    Args:
        channels: Objects of the schema's type `MigrationChannel`.
        side: Which side opens the channels.

    Raises:
        CommandError: There is no main channel, or more than one, or its address is not valid.
    """
    given = [one["channel-type"] for one in channels]
    if side == "source":
        for kind in ("main", "cpr"):
            if given.count(kind) > 1:
                raise CommandError(f"Channel list has more than one {kind} entry")
    if "main" not in given or (side == "destination" and len(given) > 1):
        raise CommandError("Channel list must have only one entry, for type 'main'")
    address = channels[given.index("main")]["addr"]
    match address["transport"]:
        case "socket":
            return _socket_address(address)
        case "exec":
            if not address["args"]:
                raise CommandError("Parameter 'args' expects a command")
            return ExecAddress(tuple(address["args"]))
        case "file":
            return FileAddress(address["filename"], address["offset"])
    raise CommandError("uri is not a valid migration protocol")


def check_transport(address: Address, capabilities: Mapping[str, bool]) -> None:
    """Refuse an address whose transport lacks something that a capability needs.

    Raises:
        CommandError: It does.
    """
    mapped, multifd = capabilities.get("mapped-ram"), capabilities.get("multifd")
    if mapped and not isinstance(address, FileAddress):
        raise CommandError("Migration requires seekable transport (e.g. file)")
    if multifd and not (mapped or isinstance(address, UnixAddress | TcpAddress)):
        raise CommandError("Migration requires multi-channel URIs (e.g. tcp)")


_NO_VSOCK = "socket family AF_VSOCK unsupported"
_OFFSET = ",offset="
_INET = r"(?P<host>[^:]*):(?P<port>(?s:.+))"
_IPV6 = r"\[(?P<host>[^\]]+)\]:(?P<port>(?s:.+))"
_VSOCK = r"[^:]+:[^,]+"
_NEGATIVE = r"\s*-[0-9]+"
# The options that are not in `TcpAddress` are accepted without effect.
_INET_OPTIONS = kinds(
    string="addr",
    boolean="numeric ipv4 ipv6 keep-alive mptcp",
    number="to keep-alive-count keep-alive-idle keep-alive-interval",
)


def _parse_inet(text: str) -> TcpAddress:
    try:
        options = parse_options(text, _INET_OPTIONS, implied="addr")
    except OptionError as error:
        raise CommandError(str(error)) from None
    address = options.string("addr") or ""
    ipv6 = address.startswith("[")
    found = re.fullmatch(_IPV6 if ipv6 else _INET, address)
    if found is None:
        raise CommandError(f"error parsing {'IPv6 ' * ipv6}address '{address}'")
    return TcpAddress(
        found["host"],
        found["port"],
        options.number("to") if "to" in options else None,
        options.bool("ipv4") if "ipv4" in options else None,
        options.bool("ipv6") if "ipv6" in options else None,
    )


def _parse_file(text: str) -> FileAddress:
    path, given, offset = text.partition(_OFFSET)
    if not given:
        return FileAddress(path)
    try:
        return FileAddress(path, parse_size("offset", offset))
    except OptionError as error:
        too_large = str(error).startswith("Value")
        code = errno.ERANGE if too_large or re.fullmatch(_NEGATIVE, offset) else errno.EINVAL
        raise CommandError(f"file URI has bad offset {offset}: {os.strerror(code)}") from None


def _socket_address(address: Mapping[str, Any]) -> Address:
    match address["type"]:
        case "unix":
            return UnixAddress("\0" * address.get("abstract", False) + address["path"])
        case "inet":
            return TcpAddress(
                address["host"],
                address["port"],
                address.get("to"),
                address.get("ipv4"),
                address.get("ipv6"),
            )
        case "fd":
            return FdAddress(address["str"])
    raise CommandError(_NO_VSOCK)
