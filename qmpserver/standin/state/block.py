"""Block nodes, drives, and the devices that use them."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.background import call_in_thread
from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

SIZE = 1 << 30
_MAX_RULES = 1 << 20
# Members of a node's options that can name other nodes.
_CHILDREN = ("file", "backing", "image", "target")
# Drivers whose members of such a name are strings.
_NAMING = {"image": "rbd", "target": "iscsi"}


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("blockdev-add")
    def blockdev_add(driver: str, **options: Any) -> Awaitable[None] | None:
        rules = options.get("config")
        if driver == "blkdebug" and isinstance(rules, str) and not state.in_setup:
            return add_debugged(rules, options)
        add(driver, options)
        return None

    async def add_debugged(rules: str, options: dict[str, Any]) -> None:
        """Add a node after its file of rules was read: QEMU's monitor, too, waits for a pipe."""
        try:
            await call_in_thread("read-rules", partial(_read_rules, rules), lambda _: None)
        except OSError as error:
            raise CommandError(f"Could not open '{rules}': {error.strerror}") from None
        add("blkdebug", options)

    def add(driver: str, options: dict[str, Any]) -> None:
        options = {name.replace("_", "-"): value for name, value in options.items()}
        name = options.get("node-name")
        if not isinstance(name, str):
            raise CommandError("'node-name' must be specified for the root node")
        if name in state.nodes:
            raise CommandError(f"Duplicate nodes with node-name='{name}'")
        if options.get("backing") == "":
            options["backing"] = None  # the old way to write it
        for child in _CHILDREN:
            if driver == _NAMING.get(child):
                continue
            if isinstance(value := options.get(child), str) and value not in state.nodes:
                raise CommandError(f"Cannot find device='{value}' nor node-name='{value}'")
        state.nodes[name] = {"driver": driver, **options}

    @registry.command("blockdev-del")
    def blockdev_del(node_name: str) -> None:
        if node_name not in state.nodes:
            raise CommandError(f"Failed to find node with node-name='{node_name}'")
        parents = [one.get(child) for one in state.nodes.values() for child in _CHILDREN]
        if node_name in parents:
            raise CommandError(f"Block device {node_name} is in use")
        if any(one.get("drive") == node_name for one in state.devices.values()):
            raise CommandError(f"Node {node_name} is in use")
        del state.nodes[node_name]

    @registry.command("block_resize")
    def block_resize(size: int, device: str | None = None, node_name: str | None = None) -> None:
        try:
            name = node_of(state, device or node_name)
        except CommandError:
            given = f"device='{device or ''}' nor node-name='{node_name or ''}'"
            raise CommandError(f"Cannot find {given}") from None
        state.nodes[name] = {**state.nodes[name], "size": size}

    @registry.command("query-named-block-nodes")
    def query_named_block_nodes(flat: bool = False) -> Any:
        return [_shown(state, name) for name in reversed(state.nodes)]

    @registry.command("query-block")
    def query_block(flat: bool = False) -> Any:
        return [_drive_info(state, name) for name in state.drives] + [
            {
                "device": "",
                "qdev": qdev(name, one),
                "type": "unknown",
                "locked": False,
                "removable": _removable(one),
                **_medium(state, one["drive"]),
            }
            for name, one in state.devices.items()
            if one.get("drive") in state.nodes or one.get("drive", "") is None
        ]

    @registry.command("query-blockstats")
    def query_blockstats(query_nodes: bool = False) -> Any:
        if query_nodes:
            return [_stats(state, name) for name in reversed(state.nodes)]
        drives = [
            {"device": name, **_of_user(state, name), **_stats(state, one["node"])}
            for name, one in state.drives.items()
        ]
        return drives + [
            {"qdev": qdev(name, one), **_stats(state, one["drive"])}
            for name, one in state.devices.items()
            if one.get("drive") in state.nodes
        ]


def _read_rules(path: str) -> None:
    """Wait for the file's writer if it is a pipe; nothing here acts on the rules."""
    with open(path, "rb") as file:
        file.read(_MAX_RULES)


def node_of(state: State, name: str | None) -> str:
    """Return the node that a command means: by its own name, a drive's, or a device's.

    Raises:
        CommandError: There is none.
    """
    if name in state.nodes:
        return str(name)
    if name in state.drives and (node := state.drives[str(name)]["node"]) is not None:
        return str(node)
    drive = state.devices.get(name or "", {}).get("drive")
    if drive is not None:
        return node_of(state, drive)
    raise CommandError(f"Cannot find device='{name}' nor node-name='{name}'")


def replace_node(state: State, old: str, new: str) -> None:
    """Let everything that uses a node, but not the nodes below it, use another one."""
    for name, one in list(state.devices.items()):
        if one.get("drive") == old:
            state.devices[name] = {**one, "drive": new}
    for name, one in list(state.drives.items()):
        if one["node"] == old:
            state.drives[name] = {**one, "node": new}
    for name, one in list(state.nodes.items()):
        for child in _CHILDREN:
            if one.get(child) == old and name != new:
                state.nodes[name] = {**one, child: new}


def delete_drive(state: State, name: str) -> None:
    """Delete a drive, and its node unless a device has it; a device of the drive stays, empty.

    Raises:
        CommandError: There is no such drive.
    """
    if name not in state.drives:
        raise CommandError(f"Device '{name}' not found")
    node = state.drives.pop(name)["node"]
    for device, one in list(state.devices.items()):
        if one.get("drive") == name:
            state.devices[device] = {**one, "drive": None}
    if all(one.get("drive") != node for one in state.devices.values()):
        state.nodes.pop(node, None)


def overlay_of(state: State, name: str) -> str | None:
    """Return the node whose backing file a node is."""
    return next((over for over, one in state.nodes.items() if one.get("backing") == name), None)


def size_of(state: State, name: str) -> int:
    """Return the size of a node in bytes: its own, or that of the node below, or `SIZE`."""
    for _ in range(len(state.nodes)):
        one = state.nodes[name]
        size = one.get("size")
        if isinstance(size, int):
            return size
        below = one.get("file")
        if not isinstance(below, str) or below not in state.nodes:
            break
        name = below
    return SIZE


def qdev(name: str, device: dict[str, Any]) -> str:
    """Return the name of a device that uses a node, as queries show it."""
    path = f"/machine/peripheral{'' if device['named'] else '-anon'}/{name}"
    driver = device["driver"]
    if driver.startswith("virtio-"):
        return f"{path}/virtio-backend"
    return name if device["named"] else path


def _removable(device: dict[str, Any]) -> bool:
    return device["driver"] in ("ide-cd", "scsi-cd", "floppy")


def _of_user(state: State, drive: str) -> dict[str, str]:
    """Return the member `qdev` of a drive that a device uses."""
    users = [qdev(name, one) for name, one in state.devices.items() if one.get("drive") == drive]
    return {"qdev": users[0]} if users else {}


def _drive_info(state: State, name: str) -> dict[str, Any]:
    drive, user = state.drives[name], _of_user(state, name)
    removable = drive["removable"] or not user
    info = {"device": name, "locked": False, "removable": removable, "type": "unknown", **user}
    if drive["removable"] and user:
        info["tray_open"] = False
    return {**info, **_medium(state, drive["node"])}


def _medium(state: State, node: str | None) -> dict[str, Any]:
    return {} if node is None else {"io-status": "ok", "inserted": _shown(state, node)}


_COUNTERS = (
    "rd_bytes", "wr_bytes", "unmap_bytes", "zone_append_bytes", "rd_operations", "wr_operations",
    "zone_append_operations", "flush_operations", "unmap_operations", "rd_total_time_ns",
    "wr_total_time_ns", "zone_append_total_time_ns", "flush_total_time_ns", "unmap_total_time_ns",
    "wr_highest_offset", "rd_merged", "wr_merged", "zone_append_merged", "unmap_merged",
    "failed_rd_operations", "failed_wr_operations", "failed_zone_append_operations",
    "failed_flush_operations", "failed_unmap_operations", "invalid_rd_operations",
    "invalid_wr_operations", "invalid_zone_append_operations", "invalid_flush_operations",
    "invalid_unmap_operations",
)  # fmt: skip


def _stats(state: State, node: str | None) -> dict[str, Any]:
    """Return the statistics of a node: the guest has not used it."""
    stats: dict[str, Any] = dict.fromkeys(_COUNTERS, 0)
    stats |= {"account_invalid": True, "account_failed": True, "timed_stats": []}
    if node is None:
        return {"stats": stats}
    made: dict[str, Any] = {"node-name": node, "stats": stats}
    for child, member in (("file", "parent"), ("backing", "backing")):
        below = state.nodes[node].get(child)
        if isinstance(below, str) and below in state.nodes:
            made[member] = _stats(state, below)
    return made


def _without_file(node: dict[str, Any]) -> str:
    """Return the name of an image that is no file, as QEMU makes one from the options."""
    driver = node.get("driver", "null-co")
    told = {name: node[name] for name in _TOLD if name in node}
    return f"json:{json.dumps({'driver': driver, **told})}" if told else f"{driver}://"


_TOLD = ("size", "latency-ns", "read-zeroes")


_HANDED_OVER = (
    "inmigrate",
    "postmigrate",
)  # run states in which another process may have the disks


def _shown(state: State, name: str) -> dict[str, Any]:
    node = state.nodes[name]
    below = node.get("file")
    deepest = state.nodes.get(below, node) if isinstance(below, str) else as_object(below) or node
    filename = deepest.get("filename") or _without_file(deepest)
    size = size_of(state, name)
    cache = as_object(node.get("cache"))
    return {
        "active": state.status not in _HANDED_OVER,
        "node-name": name,
        "drv": node["driver"],
        "ro": node.get("read-only", False),
        "file": filename,
        "encrypted": False,
        "detect_zeroes": node.get("detect-zeroes", "off"),
        "image": {"filename": filename, "format": node["driver"], "virtual-size": size},
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
    }
