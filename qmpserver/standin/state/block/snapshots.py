"""Snapshots of block nodes and of the whole machine, and transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block.creating import add_image
from qmpserver.standin.state.block.graph import (
    check_not_backing,
    node_of,
    replace_node,
    set_child,
)
from qmpserver.standin.state.block.nodes import drop_unused, set_read_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.budget import Kept

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
        set_read_only(state, below, True)

    registry.command("blockdev-snapshot")(snapshot)

    @registry.command("blockdev-snapshot-sync")
    def snapshot_sync(
        snapshot_file: str,
        device: str | None = None,
        node_name: str | None = None,
        snapshot_node_name: str | None = None,
        format: str = "qcow2",  # noqa: A002 -- the schema's name
        mode: str = "absolute-paths",
    ) -> None:
        try:
            below = node_of(state, device or node_name)
        except CommandError:
            given = f"device='{device or ''}' nor node-name='{node_name or ''}'"
            raise CommandError(f"Cannot find {given}") from None
        check_not_backing(state, below)
        if node_name is not None and snapshot_node_name is None:
            raise CommandError("New overlay node-name missing")
        if snapshot_node_name in state.nodes:
            raise CommandError("New overlay node-name already in use")
        name = add_image(
            state, snapshot_file, format, below,
            backing=below, exists=mode == "existing", name=snapshot_node_name,
        )  # fmt: skip
        try:
            snapshot(below, name)
        finally:
            drop_unused(state, name)  # nothing may have used the node below

    @registry.command("transaction")
    def transaction(actions: list[dict[str, Any]], **_: Any) -> None:
        kept = (state.nodes, state.drives, state.devices)
        before = [dict(one) for one in kept]
        try:
            with state.job_list.transaction():
                for action in actions:
                    _act(registry, action["type"], action.get("data", {}))
        except CommandError:
            for one, entries in zip(kept, before, strict=True):
                restore(one, entries)
            raise

    def restore(kept: Kept, entries: dict[str, dict[str, Any]]) -> None:
        for name in list(kept):
            if name not in entries:
                del kept[name]
        for name, one in entries.items():
            if kept.get(name) is not one:
                kept[name] = one

    def work_on(devices: list[str], vmstate: str | None) -> None:
        """Check the nodes of a snapshot of the whole machine: no node here can hold any."""
        if not devices:
            raise CommandError("At least one device is required for snapshot")
        for name in devices:
            if name not in state.nodes:
                raise CommandError(f"No block device node '{name}'")
            if state.nodes[name]["driver"] not in _HOLDERS:
                words = f"Device '{name}' is writable but does not support snapshots"
                raise CommandError(words)
        if vmstate is not None and vmstate not in devices:
            raise CommandError(f"vmstate block device '{vmstate}' does not exist")

    def start(kind: str, job_id: str, work: Callable[[], None]) -> None:
        state.job_list.start(job_id, kind, 1, {}, auto_dismiss=False, work=work)

    @registry.command("snapshot-save")
    def save(job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        def work() -> None:
            work_on(devices, vmstate)
            if any(tag in tags_of(one) for one in devices):
                raise CommandError(f"Snapshot '{tag}' already exists in one or more devices")
            for one in devices:
                set_tags(one, [*tags_of(one), tag])

        start("snapshot-save", job_id, work)

    @registry.command("snapshot-load")
    def load(job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        was = state.status

        def work() -> None:
            work_on(devices, vmstate)
            if not all(tag in tags_of(one) for one in devices):
                raise CommandError(f"Snapshot '{tag}' does not exist in one or more devices")
            state.set_status(was)

        start("snapshot-load", job_id, work)
        if state.running:
            state.set_status("restore-vm")

    @registry.command("snapshot-delete")
    def delete(job_id: str, tag: str, devices: list[str]) -> None:
        def work() -> None:
            work_on(devices, None)
            for one in devices:
                set_tags(one, [each for each in tags_of(one) if each != tag])

        start("snapshot-delete", job_id, work)

    def tags_of(node: str) -> list[str]:
        return list(state.nodes[node].get(_TAGS, ()))

    def set_tags(node: str, tags: list[str]) -> None:
        state.nodes[node] = {**state.nodes[node], _TAGS: tags}


def _act(registry: Registry, name: str, data: dict[str, Any]) -> None:
    if name == "abort":
        raise CommandError("Transaction aborted using Abort action")
    command = registry.find(name)
    command.handler(**{key.replace("-", "_"): value for key, value in data.items()})


_HOLDERS = ("qcow2",)  # drivers whose nodes hold snapshots
_TAGS = "snapshots"  # the member of a node
