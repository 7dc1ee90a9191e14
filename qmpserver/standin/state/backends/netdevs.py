"""Network backends and their checks; no backend needs its peer."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object, check_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_LAST_PORT = 65535
_OPENED = ("ifname", "script", "downscript", "vnet_hdr")  # of a tap that QEMU opens
_DESCRIPTORS = {"tap": ("fd", "fds", "vhostfd", "vhostfds"), "socket": ("fd",)}
_WAYS = ("listen", "connect", "mcast", "udp")  # of a socket, one of which is needed


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    passed: dict[str, list[int]] = {}  # descriptors of backends, by id

    def close(fds: list[int]) -> None:
        while fds:
            os.close(fds.pop())

    def close_all() -> None:
        for fds in passed.values():
            close(fds)

    state.closes.append(close_all)

    @registry.command("netdev_add")
    def netdev_add(id: str, type: str, **options: Any) -> None:  # noqa: A002 -- the schema's names
        if not state.in_setup:  # options make names of their own
            check_id(id)
        if id in state.netdevs:
            raise CommandError(f"Duplicate ID '{id}'")
        fds: list[int] = []
        try:
            if type in _CHECKS:
                _CHECKS[type](state, options)
            if not state.in_setup:  # there, the numbers may be those of another program's start
                take(type, options, fds)
            state.netdevs[id] = {"type": type, **options}
        except CommandError:
            close(fds)
            raise
        passed[id] = fds

    def take(kind: str, options: dict[str, Any], fds: list[int]) -> None:
        """Take the descriptors with names that a backend uses; numbers are not looked at."""
        names = [
            name
            for key in _DESCRIPTORS.get(kind, ())
            if key in options
            for name in str(options[key]).split(":")
        ]
        if kind == "dgram" and as_object(options.get("local")).get("type") == "fd":
            names.append(str(options["local"]["str"]))
        fds += [state.take_fd(name) for name in names if not name.isdecimal()]

    @registry.command("netdev_del")
    def netdev_del(id: str) -> None:  # noqa: A002
        if state.netdevs.pop(id, None) is None:
            raise CommandError(f"Device '{id}' not found", "DeviceNotFound")
        close(passed.pop(id, []))


def _check_user(_: State, given: dict[str, Any]) -> None:
    if given.get("ipv4") is False and given.get("ipv6") is False:
        raise CommandError("IPv4 and IPv6 disabled")
    for one in given.get("hostfwd") or ():
        rule = str(as_object(one).get("str", ""))
        wrong = _wrong_part(rule)
        if wrong is not None:
            raise CommandError(f"Invalid host forwarding rule '{rule}' ({wrong})")


def _wrong_part(rule: str) -> str | None:
    """Return what is wrong with a rule, `PROTOCOL:[HOST]:PORT-[GUEST]:PORT`; None for nothing."""
    protocol, colon, rest = rule.partition(":")
    if not colon:
        return "No : separators"
    if protocol not in ("", "tcp", "udp"):
        return "Bad protocol name"
    host, colon, rest = rest.partition(":")
    if not colon:
        return "Missing : separator"
    if host and not _is_address(host):
        return "Bad host address"
    port, dash, rest = rest.partition("-")
    if not dash:
        return "Bad host port separator"
    if not _is_port(port, least=0):
        return "Bad host port"
    guest, colon, port = rest.partition(":")
    if not colon:
        return "Missing guest address"
    if guest and not _is_address(guest):
        return "Bad guest address"
    return None if _is_port(port, least=1) else "Bad guest port"


def _is_address(text: str) -> bool:
    try:
        socket.inet_aton(text)
    except (OSError, ValueError):  # ValueError: a zero byte
        return False
    return True


def _is_port(text: str, least: int) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and least <= int(text) <= _LAST_PORT


def _check_tap(_: State, given: dict[str, Any]) -> None:
    passed = [key for key in ("fd", "fds", "helper") if key in given]
    if len(passed) > 1 or (passed and "queues" in given):
        raise CommandError("queues=, helper=, fds= and fd= are mutual exclusive")
    if passed and any(key in given for key in _OPENED):
        words = "ifname=, script=, downscript=, vnet_hdr= are invalid with fd=/fds=/helper="
        raise CommandError(words)
    if given.get("queues") == 0:
        raise CommandError("queues must be greater than zero")


def _check_socket(_: State, given: dict[str, Any]) -> None:
    if "fd" in given:
        return
    if sum(key in given for key in _WAYS) != 1:
        raise CommandError("exactly one of listen=, connect=, mcast= or udp= is required")
    if "udp" in given and "localaddr" not in given:
        raise CommandError("localaddr= is mandatory with udp=")


def _check_dgram(_: State, given: dict[str, Any]) -> None:
    local, remote = given.get("local"), given.get("remote")
    if remote is None and local is not None and local["type"] != "fd":
        raise CommandError("type=inet or type=unix requires remote parameter")
    if local is None and (remote is None or remote["type"] != "inet"):
        raise CommandError("dgram requires local= parameter")
    if local is not None and local["type"] == "fd" and remote is not None:
        raise CommandError("don't set remote with local.fd")


def _check_vhost_user(state: State, given: dict[str, Any]) -> None:
    name = given["chardev"]
    if not state.has_chardev(name):
        raise CommandError(f'chardev "{name}" not found')


def _check_hub_port(state: State, given: dict[str, Any]) -> None:
    below = given.get("netdev")
    if below is not None and below not in state.netdevs:
        raise CommandError(f"netdev '{below}' not found")


def _check_vdpa(_: State, given: dict[str, Any]) -> None:
    if "vhostdev" not in given and "vhostfd" not in given:
        raise CommandError("vhost-vdpa: neither vhostdev= nor vhostfd= was specified")


_CHECKS: Mapping[str, Callable[[State, dict[str, Any]], None]] = {
    "user": _check_user,
    "tap": _check_tap,
    "socket": _check_socket,
    "dgram": _check_dgram,
    "vhost-user": _check_vhost_user,
    "hubport": _check_hub_port,
    "vhost-vdpa": _check_vdpa,
}
