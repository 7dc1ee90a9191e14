"""The graph of block nodes: which node is below which."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.standin.state import State

SIZE = 1 << 30
"""The bytes of a disk whose size nothing says."""

MAX_LAYERS = 100
"""Nodes that can be below one another: queries show each inside the one above."""

MEASURED = "virtual-size"
"""Member of a node whose size is known."""

# Members of a node's options that are other nodes: their names, or their options.
CHILDREN = ("file", "backing", "image", "target", "data-file")
FORMATS = ("qcow2", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "luks", "parallels", "dmg")
"""Drivers of images with a format of their own."""

# Drivers whose members of such a name are strings.
NAMING = {"image": "rbd", "target": "iscsi"}
_FILTERS = ("throttle", "copy-on-read", "compress")


def node_of(state: State, name: str | None) -> str:
    """Return the node that a command means: a drive's, or by its own name.

    Raises:
        CommandError: There is none.
    """
    key = state.drives.named(name)
    if key is not None and state.drives[key]["node"] is not None:
        return str(state.drives[key]["node"])
    if name in state.nodes:
        return str(name)
    raise CommandError(f"Cannot find device='{name}' nor node-name='{name}'")


def children_of(state: State, name: str) -> dict[str, str]:
    """Return the names of the nodes directly below a node, by the member that they are."""
    node = state.nodes[name]
    return {
        child: node[child]
        for child in CHILDREN
        if node["driver"] != NAMING.get(child)
        and isinstance(node.get(child), str)
        and node[child] in state.nodes
    }


def below(state: State, name: str) -> set[str]:
    """Return a node and all nodes below it."""
    found, left = set(), [name]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += children_of(state, one).values()
    return found


def backing_chain(state: State, name: str) -> list[str]:
    """Return a node and its backing files, from the top down, with the filters among them."""
    chain = []
    below: str | None = name
    while below is not None:
        chain.append(below)
        child = "file" if state.nodes[below]["driver"] in _FILTERS else "backing"
        below = children_of(state, below).get(child)
    return chain


def overlay_of(state: State, name: str) -> str | None:
    """Return the node whose backing file a node is."""
    return next((over for over, one in state.nodes.items() if one.get("backing") == name), None)


def check_not_backing(state: State, name: str) -> None:
    """Check that a node is no backing file.

    Raises:
        CommandError: It is one.
    """
    over = overlay_of(state, name)
    if over is not None:
        raise CommandError(f"Node '{name}' is busy: node is used as backing hd of '{over}'")


def size_of(state: State, name: str) -> int:
    """Return the size of a node in bytes: its own, or that of the node below, or `SIZE`."""
    while True:
        one = state.nodes[name]
        size = one.get(MEASURED, one.get("size"))
        if isinstance(size, int):
            return size
        children = children_of(state, name)
        if one["driver"] in FORMATS or "file" not in children:
            break
        name = children["file"]
    return SIZE


def set_child(state: State, parent: str, child: str, name: str) -> None:
    """Put a node below another one.

    Raises:
        CommandError: That would make a cycle, or too many layers.
    """
    if parent in below(state, name):
        words = f"Making '{name}' a {child} child of '{parent}' would create a cycle"
        raise CommandError(words)
    before = state.nodes[parent]
    state.nodes[parent] = {**before, child: name}
    try:
        check_size(state, _above(state, parent))
    except CommandError:
        state.nodes[parent] = before
        raise


def replace_node(state: State, old: str, new: str) -> None:
    """Let everything that uses a node, but not the nodes below it, use another one."""
    for key in state.drives.with_node(old):
        drive = state.drives[key]
        state.drives.change(key, node=new)
        if not drive["name"] and "drive" in state.devices.get(drive["device"], ()):
            state.devices[drive["device"]] = {**state.devices[drive["device"]], "drive": new}
    spared = below(state, new)
    for name in list(state.nodes):
        for child, one in children_of(state, name).items():
            if one == old and name not in spared:
                with contextlib.suppress(CommandError):  # too many layers
                    set_child(state, name, child, new)


def check_size(state: State, names: set[str]) -> None:
    """Check how much is below some nodes.

    Raises:
        CommandError: There are too many layers, or too many ways through them.
    """
    known: dict[str, tuple[int, int]] = {}

    def measure(name: str) -> tuple[int, int]:
        if name not in known:
            below = [measure(one) for one in children_of(state, name).values()]
            layers = 1 + max((one for one, _ in below), default=0)
            known[name] = layers, 1 + sum(ways for _, ways in below)
        return known[name]

    for layers, ways in map(measure, names):
        if layers > MAX_LAYERS or ways > 2 * MAX_LAYERS:
            raise CommandError(f"a stand-in has up to {MAX_LAYERS} block nodes below one another")


def _above(state: State, name: str) -> set[str]:
    """Return a node and all nodes above it."""
    parents: dict[str, set[str]] = {}
    for parent in state.nodes:
        for child in children_of(state, parent).values():
            parents.setdefault(child, set()).add(parent)
    found, left = set(), {name}
    while left:
        found |= left
        left = {parent for one in left for parent in parents.get(one, ())} - found
    return found
