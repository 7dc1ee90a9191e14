"""Run states, reset and shutdown, and queries about the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state import numa

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.standin.state import State

_NEEDS_RESET = ("shutdown", "internal-error", "guest-panicked")
_KEPT_BY_RESET = ("running", "inmigrate", "finish-migrate")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    machine = state.machine

    @registry.command("query-status")
    def query_status() -> Any:
        return {"status": state.status, "running": state.running}

    @registry.command("stop")
    def stop() -> None:
        if state.status == "inmigrate":
            state.autostart = False
            return
        if state.running:
            state.set_status("paused")
        state.job_list.drain()

    @registry.command("cont")
    def cont() -> None:
        if state.status in _NEEDS_RESET:
            raise CommandError("Resetting the Virtual Machine is required")
        if state.status == "inmigrate":
            state.autostart = True  # it runs when the migration has arrived
            return
        state.set_status("running")

    @registry.command("x-exit-preconfig")
    def x_exit_preconfig() -> None:
        if not state.preconfig:
            raise CommandError("The command is permitted only before machine initialization")
        numa.finish(state)
        state.preconfig = False
        if state.incoming is not None:
            state.status = "inmigrate"
        elif state.autostart:
            state.set_status("running")

    actions = {"reboot": "reset", "shutdown": "poweroff", "panic": "shutdown", "watchdog": "reset"}

    def shut_down(reason: str) -> None:
        """End the machine; with action `shutdown=pause`, stop it if it runs."""
        if actions["shutdown"] == "pause":
            state.emit("SHUTDOWN", {"guest": reason.startswith("guest"), "reason": reason})
            if state.running:
                state.set_status("shutdown")
        else:
            state.host.shutdown(reason)

    @registry.command("set-action")
    def set_action(**given: str) -> None:
        actions.update(given)

    @registry.command("system_reset")
    def system_reset() -> None:
        reason = "host-qmp-system-reset"
        if actions["reboot"] == "shutdown":
            shut_down(reason)
            return
        state.emit("RESET", {"guest": False, "reason": reason})
        for reset in state.resets:
            reset()
        if state.status not in _KEPT_BY_RESET:
            state.status = "prelaunch"

    def powered_down() -> None:
        if state.running:
            shut_down("guest-shutdown")

    @registry.command("system_powerdown")
    def system_powerdown() -> None:
        state.emit("POWERDOWN")
        if state.running and machine.powerdown_time is not None:
            state.later(machine.powerdown_time, powered_down)

    @registry.command("system_wakeup")
    def system_wakeup() -> None:
        if state.status != "suspended":
            raise CommandError("Unable to wake up: guest is not in suspended state")
        state.status = "running"
        state.emit("WAKEUP")

    @registry.command("quit", client=True)
    def quit_(client: Client) -> None:
        client.execute_no_more()
        if state.has_fault("quit-without-exit"):
            state.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        else:
            state.host.shutdown("host-qmp-quit")

    @registry.command("query-name")
    def query_name() -> Any:
        return {} if machine.name is None else {"name": machine.name}

    @registry.command("query-uuid")
    def query_uuid() -> Any:
        return {"UUID": machine.uuid}

    @registry.command("query-version")
    def query_version() -> Any:
        return state.host.version

    @registry.command("query-commands")
    def query_commands() -> Any:
        return [{"name": name} for name in registry.names]

    @registry.command("query-qmp-schema")
    def query_qmp_schema() -> Any:
        return registry.schema.introspect()

    @registry.command("query-kvm")
    def query_kvm() -> Any:
        return {"enabled": machine.accel == "kvm", "present": True}

    @registry.command("query-current-machine")
    def query_current_machine() -> Any:
        return {"wakeup-suspend-support": not machine.empty}

    @registry.command("query-display-options")
    def query_display_options() -> Any:
        return {"type": "none"}

    @registry.command("query-accelerators")
    def query_accelerators() -> Any:
        return {"enabled": machine.accel, "present": ["kvm", "tcg"]}

    @registry.command("query-target")
    def query_target() -> Any:
        return {"arch": "x86_64"}
