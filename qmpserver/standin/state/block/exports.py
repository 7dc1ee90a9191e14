"""Exports of block nodes, and the NBD server: it listens, and closes each connection at once."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import IDENTIFIER
from qmpserver.monitor import DeviceError, InetAddress, SocketChardev, UnixAddress
from qmpserver.monitor.socket_devices import BACKLOG, Listener
from qmpserver.monitor.sockets import listen
from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import permissions
from qmpserver.standin.state.block.bitmaps import bitmaps_of
from qmpserver.standin.state.block.graph import node_of
from qmpserver.standin.state.block.nodes import drop_unused
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_LONGEST = 4096  # bytes of an export's name


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    servers: list[Listener] = []  # one at most

    def stop() -> None:
        while servers:
            servers.pop().close()

    state.closes.append(stop)

    @registry.command("nbd-server-start")
    def nbd_server_start(addr: dict[str, Any], tls_creds: str | None = None, **_: Any) -> None:
        if servers:
            raise CommandError("NBD server already running")
        try:
            server = _listening(addr)
        except (DeviceError, ValueError) as error:  # ValueError: of the path's letters
            raise CommandError(str(error)) from None
        if tls_creds is not None and tls_creds not in state.objects:
            server.close()
            raise CommandError(f"No TLS credentials with id '{tls_creds}'")
        server.attach(lambda channel: channel.close())
        servers.append(server)

    @registry.command("nbd-server-stop")
    def nbd_server_stop() -> None:
        require_server()
        for name, one in reversed([*state.exports.items()]):
            if one["type"] == "nbd":
                delete(name)
        stop()

    def require_server() -> None:
        if not servers:
            raise CommandError("NBD server not running")

    def add(
        name: str,
        kind: str,
        node: str,
        options: dict[str, Any],
    ) -> None:
        if not re.fullmatch(IDENTIFIER, name):
            raise CommandError("Invalid block export id")
        if name in state.exports:
            raise CommandError(f"Block export id '{name}' is already in use")
        iothread = options.get("iothread")
        if iothread is not None and state.objects.get(iothread, {}).get("qom-type") != "iothread":
            raise CommandError(f'iothread "{iothread}" not found')
        shown = options.get("name") or node
        if kind == "nbd":
            check_nbd(shown, node, options)
        if options.get("writable") and state.nodes[node].get("read-only"):
            raise CommandError("Cannot export read-only node as writable")
        state.exports[name] = {
            "type": kind, "node-name": node, "name": shown,
            "writable": bool(options.get("writable")),
        }  # fmt: skip
        try:
            permissions.check(state, node)
        except CommandError:
            del state.exports[name]
            raise

    def check_nbd(shown: str, node: str, options: dict[str, Any]) -> None:
        require_server()
        if len(shown.encode()) > _LONGEST:
            raise CommandError(f"export name '{shown}' too long")
        if any(one["type"] == "nbd" and one["name"] == shown for one in state.exports.values()):
            raise CommandError(f"NBD server already has export named '{shown}'")
        for one in options.get("bitmaps") or ():
            bitmap = one if isinstance(one, str) else one["name"]
            if bitmap not in bitmaps_of(state, node):
                raise CommandError(f"Bitmap '{bitmap}' is not found")

    def delete(name: str) -> None:
        node = state.exports.pop(name)["node-name"]
        drop_unused(state, node)
        state.emit("BLOCK_EXPORT_DELETED", {"id": name})

    @registry.command("block-export-add")
    def block_export_add(id: str, type: str, node_name: str, **options: Any) -> None:  # noqa: A002
        if node_name not in state.nodes:
            raise CommandError(f"Cannot find device='' nor node-name='{node_name}'")
        add(id, type, node_name, options)

    @registry.command("block-export-del")
    def block_export_del(id: str, mode: str = "safe") -> None:  # noqa: A002
        if id not in state.exports:
            raise CommandError(f"Export '{id}' is not found")
        delete(id)

    @registry.command("nbd-server-add")
    def nbd_server_add(
        device: str, name: str | None = None, bitmap: str | None = None, **options: Any
    ) -> None:
        node = node_of(state, device)
        shown = device if name is None else name
        bitmaps = [] if bitmap is None else [bitmap]
        writable = options.get("writable") and not state.nodes[node].get("read-only")
        add(
            shown, "nbd", node, {**options, "name": shown, "bitmaps": bitmaps, "writable": writable}
        )

    @registry.command("nbd-server-remove")
    def nbd_server_remove(name: str, mode: str = "safe") -> None:
        if state.exports.get(name, {}).get("type") != "nbd":
            raise CommandError(f"Export '{name}' is not found")
        delete(name)

    @registry.command("query-block-exports")
    def query_block_exports() -> Any:
        return [
            {
                "id": name,
                "type": one["type"],
                "node-name": one["node-name"],
                "shutting-down": False,
            }
            for name, one in reversed([*state.exports.items()])
        ]


def _listening(addr: dict[str, Any]) -> Listener:
    where = as_object(addr.get("data")) or addr
    address: UnixAddress | InetAddress
    if addr.get("type") == "unix":
        address = UnixAddress(str(where["path"]))
    elif addr.get("type") == "inet":
        address = InetAddress(str(where["host"]), str(where["port"]))
    else:
        raise DeviceError("a stand-in's NBD server listens on UNIX sockets and TCP ports only")
    described = SocketChardev(address, server=True, id="nbd")
    return Listener(described, asyncio.get_running_loop(), listen(address, BACKLOG))
