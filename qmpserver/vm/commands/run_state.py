"""Handlers of `schema/run-state.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import StatusInfo, WatchdogAction
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-status")
    def query_status() -> StatusInfo:
        return {"status": machine.state, "running": machine.running}

    @registry.command("set-action")
    def set_action(**actions: Any) -> None:
        for event, action in actions.items():
            setattr(machine.actions, event, action)

    @registry.command("watchdog-set-action")
    def watchdog_set_action(action: WatchdogAction) -> None:
        machine.actions.watchdog = action
