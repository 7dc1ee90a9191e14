"""Snapshots of block nodes, and transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import (
    add_node,
    check_not_backing,
    image_options,
    node_of,
    replace_node,
    set_child,
)

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_WITH_BACKING = ("qcow2", "qcow", "qed", "vmdk", "parallels")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    def snapshot(node: str, overlay: str) -> None:
        below = node_of(state, node)
        if overlay not in state.nodes:
            raise CommandError(f"Cannot find device='{overlay}' nor node-name='{overlay}'")
        check_not_backing(state, below)
        if any(state.drives.with_node(overlay)):
            raise CommandError("The overlay is already in use")
        if isinstance(state.nodes[overlay].get("backing"), str):
            raise CommandError("The overlay already has a backing image")
        if state.nodes[overlay]["driver"] not in _WITH_BACKING:
            raise CommandError("The overlay does not support backing images")
        set_child(state, overlay, "backing", below)
        replace_node(state, below, overlay)

    registry.command("blockdev-snapshot")(snapshot)

    @registry.command("blockdev-snapshot-sync")
    def snapshot_sync(
        snapshot_file: str,
        device: str | None = None,
        node_name: str | None = None,
        snapshot_node_name: str | None = None,
        format: str = "qcow2",  # noqa: A002 -- the schema's name
        **_: Any,
    ) -> None:
        try:
            below = node_of(state, device or node_name)
        except CommandError:
            given = f"device='{device or ''}' nor node-name='{node_name or ''}'"
            raise CommandError(f"Cannot find {given}") from None
        if snapshot_node_name in state.nodes:
            raise CommandError("New overlay node-name already in use")
        options: dict[str, Any] = {"driver": format, "file": image_options(snapshot_file)}
        if snapshot_node_name is not None:
            options["node-name"] = snapshot_node_name
        name = add_node(state, options, {}, owned=False)
        snapshot(below, name)

    @registry.command("transaction")
    def transaction(actions: list[dict[str, Any]], **_: Any) -> None:
        for action in actions:
            if action["type"] == "abort":
                raise CommandError("Transaction aborted using Abort action")
            command = registry.find(action["type"])
            data = action.get("data", {})
            command.handler(**{name.replace("-", "_"): value for name, value in data.items()})
