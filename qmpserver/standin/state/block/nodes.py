"""Block nodes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import images, permissions
from qmpserver.standin.state.block.graph import (
    CHILDREN,
    MEASURED,
    NAMING,
    check_not_backing,
    check_size,
    children_of,
    node_of,
)
from qmpserver.standin.state.block.images import Image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.block.images import Images

_INHERITED = ("read-only", "cache")
_PROTOCOLS = {"fat": "vvfat", "iser": "iscsi", "nbds": "nbd"}  # drivers of other names
_UNOWNED = "unowned"  # member of a node that goes with its last user
IN_HEADER = "backing-name"
"""Member of a node whose header is known: the name of its backing file there, or ""."""

BACKING_FORMAT = "backing-format"
"""Member of such a node: the format of that file in the header, or ""."""


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("blockdev-add")
    def blockdev_add(**options: Any) -> Awaitable[None] | None:
        options = {name.replace("_", "-"): value for name, value in options.items()}
        rules = options.get("config")
        if options["driver"] != "blkdebug" or not isinstance(rules, str):
            rules = None
        files = [*images.names(options), *_files_below(state, options)]
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

    @registry.command("blockdev-reopen")
    def blockdev_reopen(options: list[dict[str, Any]]) -> None:
        """Change whether nodes are read-only; their other options stay."""
        before: dict[str, dict[str, Any]] = {}
        try:
            for one in options:
                if "node-name" not in one:
                    raise CommandError("node-name not specified")
                name = one["node-name"]
                if name not in state.nodes:
                    raise CommandError(f"Failed to find node with node-name='{name}'")
                before.setdefault(name, state.nodes[name])
                read_only = one.get("read-only", False)
                state.nodes[name] = {**state.nodes[name], "read-only": read_only}
            for name in before:
                permissions.check(state, name)
        except CommandError:
            for name, node in before.items():
                state.nodes[name] = node
            raise

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
        state.nodes[name] = {**state.nodes[name], MEASURED: size}


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
    if not isinstance(name, str | None):
        raise CommandError("Invalid parameter type for 'node-name', expected: string")
    if name in state.nodes:
        raise CommandError(f"Duplicate nodes with node-name='{name}'")
    if state.drives.named(name) is not None:
        raise CommandError(f"node-name={name} is conflicting with a device id")
    driver = options["driver"]
    if not isinstance(driver, str) or not state.knows_block_driver(driver):
        raise CommandError(f"Unknown driver '{driver}'")
    children = [one for one in CHILDREN if driver != NAMING.get(one)]
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
                below_it = {"driver": "raw", **inherited, **value}  # -drive may name no driver
                made[child] = add_node(state, below_it, found, owned=False)
                below.append(made[child])
        image = found.get(_file_of(state, made) or "", Image())
        size = image.size if driver in images.FILES else image.disk_size
        if driver == "qcow2" and image.format == "raw" and state.machine.images:
            raise CommandError("Image is not in qcow2 format")
        if size is not None and "size" not in made and driver in (*images.FILES, image.format):
            made[MEASURED] = size
        if driver == image.format == "qcow2":
            made |= {IN_HEADER: image.backing, BACKING_FORMAT: image.backing_format}
        name = free_name(state) if name is None else str(name)
        if name in state.nodes:  # one of those below
            raise CommandError(f"Duplicate nodes with node-name='{name}'")
        state.nodes[name] = made
        check_size(state, {name})
        if any(isinstance(options.get(child), str) for child in children):
            permissions.check(state, name)  # the others have no other user
    except CommandError:
        if name is not None and state.nodes.get(name) is made:
            del state.nodes[name]
        for one in below:
            drop_unused(state, one)
        raise
    return name


def image_options(filename: str) -> dict[str, Any]:
    """Return the options of the node of a file, or of a URL's protocol."""
    if has_protocol(filename):
        scheme = filename.partition(":")[0]
        if scheme == "file":
            return {"driver": "file", "filename": filename.removeprefix("file:")}
        protocol = scheme.partition("+")[0]
        return {"driver": _PROTOCOLS.get(protocol, protocol), "filename": filename}
    return {"driver": "file", "filename": filename}


def has_protocol(filename: str) -> bool:
    """Return whether the name of an image begins with a protocol."""
    scheme, colon, _ = filename.partition(":")
    return bool(colon) and scheme.replace("-", "").replace("+", "").isalnum()


def _files_below(state: State, options: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the files whose nodes the options of a node name as its file."""
    below = options.get("file")
    if isinstance(below, dict):
        yield from _files_below(state, below)
    elif isinstance(below, str) and below in state.nodes:
        node = state.nodes[below]
        if node["driver"] in images.FILES and isinstance(node.get("filename"), str):
            yield node["filename"]


def _file_of(state: State, options: dict[str, Any]) -> str | None:
    """Return the name of the file that a node is, or that is directly below it."""
    below = state.nodes.get(options.get("file", ""), options) if "file" in options else options
    return below.get("filename") if below["driver"] in images.FILES else None


def set_read_only(state: State, name: str, value: bool) -> None:
    """Let a node, and those that came with it, be written no longer, or again."""
    state.nodes[name] = {**state.nodes[name], "read-only": value}
    below = children_of(state, name).get("file")
    if below is not None and state.nodes[below].get(_UNOWNED):
        set_read_only(state, below, value)


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
    """Return whether a drive, an export or another node has a node."""
    return (
        any(state.drives.with_node(name))
        or any(one["node-name"] == name for one in state.exports.values())
        or any(name in children_of(state, one).values() for one in state.nodes)
    )
