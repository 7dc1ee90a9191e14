"""Queries about block nodes and drives."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from qmpserver.standin.state.block import disks
from qmpserver.standin.state.block.graph import backing_chain, children_of, size_of
from qmpserver.standin.state.block.nodes import BACKING_FORMAT, IN_HEADER, has_protocol
from qmpserver.standin.state.block.paths import qdev
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("query-named-block-nodes")
    def query_named_block_nodes(flat: bool = False) -> Any:
        return [_node(state, name, flat=flat) for name in reversed(state.nodes)]

    @registry.command("query-block")
    def query_block(flat: bool = False) -> Any:
        return [_drive(state, drive, flat=flat) for drive in state.drives.shown()]

    @registry.command("query-blockstats")
    def query_blockstats(query_nodes: bool = False) -> Any:
        if query_nodes:
            return [_stats(state, name) for name in state.nodes]
        return [
            {
                "device": drive["name"],
                **_user(state, drive),
                **_stats(state, drive["node"], drive=True),
            }
            for drive in state.drives.shown()
        ]


def _user(state: State, drive: dict[str, Any]) -> dict[str, str]:
    device = drive["device"]
    return {} if device is None else {"qdev": qdev(state, device)}


def _drive(state: State, drive: dict[str, Any], *, flat: bool) -> dict[str, Any]:
    shown = {
        "device": drive["name"],
        "locked": False,
        "removable": disks.is_removable(state, drive),
        "type": "unknown",
        **_user(state, drive),
    }
    if disks.has_status(state, drive):
        shown["io-status"] = "ok"
    if disks.has_tray(state, drive):
        shown["tray_open"] = drive["tray-open"]
    if drive["node"] is not None:
        node = _node(state, drive["node"], flat=flat)
        node["cache"]["writeback"] = drive.get("writeback", True)
        shown["inserted"] = {**node, **(drive["throttle"] or {})}
    return shown


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


def _stats(state: State, node: str | None, *, drive: bool = False) -> dict[str, Any]:
    """Return the statistics of a node, or of a drive with it: the guest has not used it."""
    stats: dict[str, Any] = dict.fromkeys(_COUNTERS, 0)
    stats |= {"account_invalid": drive, "account_failed": drive, "timed_stats": []}
    if node is None:
        return {"stats": stats}
    made: dict[str, Any] = {"node-name": node, "stats": stats}
    below = children_of(state, node)
    for child, member in (("file", "parent"), ("backing", "backing")):
        if child in below:
            made[member] = _stats(state, below[child])
    return made


# Options that are part of an image's name, by driver.
_STRONG = {
    "null-co": ("size", "read-zeroes"),
    "null-aio": ("size", "read-zeroes"),
    "raw": ("offset", "size"),
    "throttle": ("throttle-group",),
}


def _is_overridden(state: State, name: str) -> bool:
    """Return whether an image has another backing file than its header says."""
    backing, written = children_of(state, name).get("backing"), state.nodes[name].get(IN_HEADER)
    if written is None:
        return False
    return bool(written != ("" if backing is None else filename_of(state, backing)))


def filename_of(state: State, name: str) -> str:
    """Return the name of an image; of one that is no file, QEMU makes it from the options."""
    node = state.nodes[name]
    if _is_overridden(state, name) or any(
        option in node for option in _STRONG.get(node["driver"], ())
    ):
        return f"json:{json.dumps(_described(state, name))}"
    if isinstance(node.get("filename"), str):
        return str(node["filename"])
    children = children_of(state, name)
    child = children.get("file") or children.get("image")
    if child is None:
        return f"{node['driver']}://"
    found = filename_of(state, child)
    return f"json:{json.dumps(_described(state, name))}" if found.startswith("json:") else found


def _described(state: State, name: str) -> dict[str, Any]:
    """Return the options of a node that are part of an image's name."""
    node = state.nodes[name]
    told = ("driver", "filename", *_STRONG.get(node["driver"], ()))
    if node["driver"].startswith("null-"):
        told = tuple(one for one in told if one != "filename")
    children: dict[str, Any] = {
        child: _described(state, one)
        for child, one in children_of(state, name).items()
        if child != "backing" or _is_overridden(state, name)
    }
    if _is_overridden(state, name):
        children.setdefault("backing", None)
    return {**{key: node[key] for key in told if key in node}, **children}


_HANDED_OVER = (
    "inmigrate",
    "postmigrate",
)  # run states in which another process may have the disks


def _image(state: State, name: str, *, flat: bool) -> dict[str, Any]:
    """Return an image, which unless flat has the one that backs it."""
    shown = {
        "filename": filename_of(state, name),
        "format": state.nodes[name]["driver"],
        "virtual-size": size_of(state, name),
    }
    if header := state.nodes[name].get(IN_HEADER):
        shown["backing-filename"] = header
        shown["full-backing-filename"] = _full(state, name, header)
        if driver := state.nodes[name][BACKING_FORMAT]:
            shown["backing-filename-format"] = driver
    chain = backing_chain(state, name)
    if len(chain) > 1 and not flat:
        shown["backing-image"] = _image(state, chain[1], flat=False)
    return shown


def _full(state: State, name: str, backing: str) -> str:
    """Return the name of a backing file, which is relative to the image that has it."""
    file = children_of(state, name).get("file")
    if file is None or has_protocol(backing):
        return backing
    return os.path.join(os.path.dirname(filename_of(state, file)), backing)


def _node(state: State, name: str, *, flat: bool) -> dict[str, Any]:
    node = state.nodes[name]
    image = _image(state, name, flat=flat)
    chain = backing_chain(state, name)
    below = children_of(state, name).get("backing")
    backing = {} if below is None else {"backing_file": filename_of(state, below)}
    cache = as_object(node.get("cache"))
    return {
        "active": state.status not in _HANDED_OVER,
        "node-name": name,
        "drv": node["driver"],
        "ro": node.get("read-only", False),
        "file": image["filename"],
        **backing,
        "backing_file_depth": 0 if flat else len(chain) - 1,
        "encrypted": False,
        "detect_zeroes": node.get("detect-zeroes", "off"),
        "image": image,
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
        **(
            {"dirty-bitmaps": [*reversed(node["dirty-bitmaps"])]}
            if node.get("dirty-bitmaps")
            else {}
        ),
    }
