"""Block nodes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state import images
from qmpserver.standin.state.images import Image

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.images import Images

SIZE = 1 << 30
"""The bytes of a disk whose size nothing says."""

MAX_LAYERS = 100
"""Nodes that can be below one another: queries show each inside the one above."""

# Members of a node's options that are other nodes: their names, or their options.
CHILDREN = ("file", "backing", "image", "target", "data-file")
# Drivers whose members of such a name are strings.
_NAMING = {"image": "rbd", "target": "iscsi"}
_FORMATS = ("qcow2", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "luks", "parallels", "dmg")
_FILTERS = ("throttle", "copy-on-read", "compress")
_INHERITED = ("read-only", "cache")
_UNOWNED = "unowned"  # member of a node that goes with its last user
IN_HEADER = "backing-name"
"""Member of a node whose header was read: the name of its backing file there, or ""."""

_MEASURED = "virtual-size"  # member of a node whose size is known


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("blockdev-add")
    def blockdev_add(**options: Any) -> Awaitable[None] | None:
        options = {name.replace("_", "-"): value for name, value in options.items()}
        rules = options.get("config")
        if options["driver"] != "blkdebug" or not isinstance(rules, str):
            rules = None
        files = list(images.names(options))
        if state.in_setup or not (files or rules):
            add(options, images.read(files))
            return None
        return add_later(options, rules, files)

    async def add_later(options: dict[str, Any], rules: str | None, files: list[str]) -> None:
        """Add a node after its files were read: QEMU's monitor, too, waits for a pipe."""
        if rules is not None:
            await images.read_rules(rules)
        add(options, await images.look(files))

    def add(options: dict[str, Any], found: Images) -> None:
        if not isinstance(options.get("node-name"), str):
            raise CommandError("'node-name' must be specified for the root node")
        if options.get("backing") == "":
            options["backing"] = None  # the old way to write it
        group = options.get("throttle-group") if options["driver"] == "throttle" else None
        if group is not None and state.objects.get(group, {}).get("qom-type") != "throttle-group":
            raise CommandError(f"Throttle group '{group}' does not exist")
        add_node(state, options, found)

    @registry.command("blockdev-del")
    def blockdev_del(node_name: str) -> None:
        if node_name not in state.nodes:
            raise CommandError(f"Failed to find node with node-name='{node_name}'")
        exported = any(one["node-name"] == node_name for one in state.exports.values())
        if exported or any(state.drives.with_node(node_name)):
            raise CommandError(f"Node {node_name} is in use")
        state.job_list.check_free(node_name, "blockdev-del")
        check_not_backing(state, node_name)
        if state.nodes[node_name].get(_UNOWNED):
            raise CommandError(f"Node {node_name} is not owned by the monitor")
        if _is_used(state, node_name):
            raise CommandError(f"Block device {node_name} is in use")
        _delete(state, node_name)

    @registry.command("block_resize")
    def block_resize(size: int, device: str | None = None, node_name: str | None = None) -> None:
        try:
            name = node_of(state, device or node_name)
        except CommandError:
            given = f"device='{device or ''}' nor node-name='{node_name or ''}'"
            raise CommandError(f"Cannot find {given}") from None
        lowest = name
        while state.nodes[lowest]["driver"] == "raw" and "file" in children_of(state, lowest):
            lowest = children_of(state, lowest)["file"]
        if state.nodes[lowest]["driver"].startswith("null-"):
            raise CommandError("Image format driver does not support resize")
        state.nodes[name] = {**state.nodes[name], _MEASURED: size}


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
                state.nodes[name] = {**state.nodes[name], child: new}


def add_node(state: State, options: dict[str, Any], found: Images, *, owned: bool = True) -> str:
    """Add a node and those below it, and return its name.

    Args:
        state: The state.
        options: Its options, as `blockdev-add` has them.
        found: The files among them.
        owned: Whether it stays until a client deletes it; otherwise it goes with its last user.

    Raises:
        CommandError: There is such a node, none of another name, or a file cannot be opened.
    """
    images.check(state, found)
    name = options.get("node-name")
    if name in state.nodes:
        raise CommandError(f"Duplicate nodes with node-name='{name}'")
    if state.drives.named(name) is not None:
        raise CommandError(f"node-name={name} is conflicting with a device id")
    driver = options["driver"]
    if not state.knows_block_driver(driver):
        raise CommandError(f"Unknown driver '{driver}'")
    children = [one for one in CHILDREN if driver != _NAMING.get(one)]
    for child in children:
        if isinstance(value := options.get(child), str) and value not in state.nodes:
            raise CommandError(f"Cannot find device='{value}' nor node-name='{value}'")
    made = {key: value for key, value in options.items() if key != "node-name"}
    if not owned:
        made[_UNOWNED] = True
    inherited = {key: options[key] for key in _INHERITED if key in options}
    below = []
    try:
        for child in children:
            if isinstance(value := options.get(child), dict):
                made[child] = add_node(state, {**inherited, **value}, found, owned=False)
                below.append(made[child])
        image = found.get(_file_of(state, made) or "", Image())
        size = image.size if driver in images.FILES else image.disk_size
        if driver == "qcow2" and image.format == "raw" and state.machine.images:
            raise CommandError("Image is not in qcow2 format")
        if size is not None and "size" not in made and driver in (*images.FILES, image.format):
            made[_MEASURED] = size
        if driver == image.format == "qcow2":
            made[IN_HEADER] = image.backing
        name = free_name(state) if name is None else str(name)
        if name in state.nodes:  # one of those below
            raise CommandError(f"Duplicate nodes with node-name='{name}'")
        state.nodes[name] = made
        _check_depth(state, name)
    except CommandError:
        if name is not None and state.nodes.get(name) is made:
            del state.nodes[name]
        for one in below:
            drop_unused(state, one)
        raise
    return name


def image_options(filename: str) -> dict[str, Any]:
    """Return the options of the node of a file, or of a URL's protocol."""
    scheme, colon, _ = filename.partition(":")
    if colon and scheme.replace("-", "").replace("+", "").isalnum():
        if scheme == "file":
            return {"driver": "file", "filename": filename.removeprefix("file:")}
        return {"driver": scheme, "filename": filename}
    return {"driver": "file", "filename": filename}


def children_of(state: State, name: str) -> dict[str, str]:
    """Return the names of the nodes directly below a node, by the member that they are."""
    node = state.nodes[name]
    return {
        child: node[child]
        for child in CHILDREN
        if node["driver"] != _NAMING.get(child)
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
        _check_depth(state, parent)
    except CommandError:
        state.nodes[parent] = before
        raise


def _check_depth(state: State, name: str) -> None:
    """Check the number of layers from a node downwards, and upwards.

    Raises:
        CommandError: There are too many.
    """
    layer, depth = {name}, 0
    while layer:
        layer = {one for node in layer for one in children_of(state, node).values()}
        depth += 1
    layer = {name}
    while layer := {one for one in state.nodes if layer & {*children_of(state, one).values()}}:
        depth += 1
    if depth > MAX_LAYERS:
        raise CommandError(f"a stand-in has up to {MAX_LAYERS} block nodes below one another")


def _file_of(state: State, options: dict[str, Any]) -> str | None:
    """Return the name of the file that a node is, or that is directly below it."""
    below = state.nodes.get(options.get("file", ""), options) if "file" in options else options
    return below.get("filename") if below["driver"] in images.FILES else None


def drop_unused(state: State, name: str | None) -> None:
    """Delete a node that nothing has any more, unless a client has added it."""
    if name is None or name not in state.nodes:
        return
    if state.nodes[name].get(_UNOWNED) and not _is_used(state, name):
        _delete(state, name)


def _delete(state: State, name: str) -> None:
    """Delete a node, and those below it that nothing else has."""
    children = children_of(state, name)
    del state.nodes[name]
    for one in children.values():
        drop_unused(state, one)


def free_name(state: State) -> str:
    """Return the name of a node without one."""
    names = (f"#block{number:03}" for number in itertools.count(len(state.nodes)))
    return next(name for name in names if name not in state.nodes)


def _is_used(state: State, name: str) -> bool:
    """Return whether a drive or another node has a node."""
    return any(state.drives.with_node(name)) or any(
        name in children_of(state, one).values() for one in state.nodes
    )


def backing_chain(state: State, name: str) -> list[str]:
    """Return a node and its backing files, from the top down, with the filters among them."""
    chain = []
    below: str | None = name
    while below is not None:
        chain.append(below)
        child = "file" if state.nodes[below]["driver"] in _FILTERS else "backing"
        below = children_of(state, below).get(child)
    return chain


def check_not_backing(state: State, name: str) -> None:
    """Check that a node is no backing file.

    Raises:
        CommandError: It is one.
    """
    over = overlay_of(state, name)
    if over is not None:
        raise CommandError(f"Node '{name}' is busy: node is used as backing hd of '{over}'")


def overlay_of(state: State, name: str) -> str | None:
    """Return the node whose backing file a node is."""
    return next((over for over, one in state.nodes.items() if one.get("backing") == name), None)


def size_of(state: State, name: str) -> int:
    """Return the size of a node in bytes: its own, or that of the node below, or `SIZE`."""
    while True:
        one = state.nodes[name]
        size = one.get(_MEASURED, one.get("size"))
        if isinstance(size, int):
            return size
        children = children_of(state, name)
        if one["driver"] in _FORMATS or "file" not in children:
            break
        name = children["file"]
    return SIZE
