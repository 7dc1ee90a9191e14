"""Dirty bitmaps of block nodes; nothing ever writes to a node, so they stay clean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block.graph import node_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_GRANULARITY = 1 << 16  # bytes, unless a client says
_LEAST, _MOST = 512, (1 << 32) - 1
_LONGEST = 1023  # bytes of a name
_MEMBER = "dirty-bitmaps"


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    def keep(node: str, bitmaps: dict[str, dict[str, Any]]) -> None:
        state.nodes[node] = {**state.nodes[node], _MEMBER: [*bitmaps.values()]}

    def found(node: str, *names: str) -> tuple[str, dict[str, dict[str, Any]]]:
        """Return the node that a command means, and its bitmaps, of which it must have some."""
        try:
            known = node_of(state, node)
        except CommandError:
            raise CommandError(f"Node '{node}' not found") from None
        bitmaps = bitmaps_of(state, known)
        for name in names:
            if name not in bitmaps:
                raise CommandError(f"Dirty bitmap '{name}' not found")
        return known, bitmaps

    @registry.command("block-dirty-bitmap-add")
    def add(
        node: str,
        name: str,
        granularity: int = _GRANULARITY,
        persistent: bool = False,
        disabled: bool = False,
    ) -> None:
        if not name:
            raise CommandError("Bitmap name cannot be empty")
        known = node_of(state, node)
        if granularity > _MOST:
            raise CommandError("Parameter 'granularity' expects uint32_t")
        if granularity < _LEAST or granularity & (granularity - 1):
            raise CommandError(f"Granularity must be power of 2 and at least {_LEAST}")
        if persistent and state.nodes[known]["driver"] != "qcow2":
            words = f"Can't store persistent bitmaps to {node}: Operation not supported"
            raise CommandError(words)
        bitmaps = bitmaps_of(state, known)
        if name in bitmaps:
            raise CommandError(f"Bitmap already exists: {name}")
        if len(name.encode()) > _LONGEST:
            raise CommandError(f"Bitmap name too long: {name}")
        bitmaps[name] = {
            "name": name, "count": 0, "granularity": granularity,
            "recording": not disabled, "busy": False, "persistent": persistent,
        }  # fmt: skip
        keep(known, bitmaps)

    @registry.command("block-dirty-bitmap-remove")
    def remove(node: str, name: str) -> None:
        known, bitmaps = found(node, name)
        del bitmaps[name]
        keep(known, bitmaps)

    @registry.command("block-dirty-bitmap-clear")
    def clear(node: str, name: str) -> None:
        found(node, name)

    def switch(node: str, name: str, *, on: bool) -> None:
        known, bitmaps = found(node, name)
        bitmaps[name] = {**bitmaps[name], "recording": on}
        keep(known, bitmaps)

    @registry.command("block-dirty-bitmap-enable")
    def enable(node: str, name: str) -> None:
        switch(node, name, on=True)

    @registry.command("block-dirty-bitmap-disable")
    def disable(node: str, name: str) -> None:
        switch(node, name, on=False)

    @registry.command("block-dirty-bitmap-merge")
    def merge(node: str, target: str, bitmaps: Sequence[str | dict[str, str]]) -> None:
        found(node, target)
        for one in bitmaps:
            if isinstance(one, str):
                found(node, one)
            else:
                found(one["node"], one["name"])


def bitmaps_of(state: State, node: str) -> dict[str, dict[str, Any]]:
    """Return the bitmaps of a node by name."""
    return {one["name"]: one for one in state.nodes[node].get(_MEMBER, ())}
