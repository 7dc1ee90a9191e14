"""Handlers of ``schema/run-state.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.commands.types import StatusInfo
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Registry


def register(registry: Registry, machine: Machine) -> None:
    """Bind this file's commands."""

    @registry.command("query-status")
    def query_status() -> StatusInfo:
        return {"status": machine.state, "running": machine.running}
