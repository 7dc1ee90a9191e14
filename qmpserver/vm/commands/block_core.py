"""Handlers of `schema/block-core.json`; `schema/crypto.json` has no commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import BlockDeviceInfo, BlockInfo
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-block")
    def query_block(flat: bool = False) -> list[BlockInfo]:
        return []

    @registry.command("query-named-block-nodes")
    def query_named_block_nodes(flat: bool = False) -> list[BlockDeviceInfo]:
        return []
