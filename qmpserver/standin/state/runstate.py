"""Run states, reset and shutdown, and queries about the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.standin.state import State

_NEEDS_RESET = ("shutdown", "internal-error", "guest-panicked")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    machine = state.machine

    @registry.command("query-status")
    def query_status() -> Any:
        return {"status": state.status, "running": state.running}

    @registry.command("stop")
    def stop() -> None:
        if state.running:
            state.set_status("paused")

    @registry.command("cont")
    def cont() -> None:
        if state.status in _NEEDS_RESET:
            raise CommandError("Resetting the Virtual Machine is required")
        if state.status == "inmigrate":
            return  # it runs when the migration has arrived
        state.set_status("running")

    @registry.command("system_reset")
    def system_reset() -> None:
        for reset in state.resets:
            reset()
        if state.status in _NEEDS_RESET:
            state.status = "paused"
        state.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})

    @registry.command("system_powerdown")
    def system_powerdown() -> None:
        state.emit("POWERDOWN")

    @registry.command("system_wakeup")
    def system_wakeup() -> None:
        if state.status != "suspended":
            raise CommandError("Unable to wake up: guest is not in suspended state")
        state.status = "running"
        state.emit("WAKEUP")

    @registry.command("quit", client=True)
    def quit_(client: Client) -> None:
        client.execute_no_more()
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
        return {"enabled": True, "present": True}

    @registry.command("query-accelerators")
    def query_accelerators() -> Any:
        return {"enabled": "kvm", "present": ["kvm", "tcg"]}

    @registry.command("query-target")
    def query_target() -> Any:
        return {"arch": "x86_64"}

    @registry.command("query-cpus-fast")
    def query_cpus_fast() -> Any:
        return [
            {
                "cpu-index": index,
                "qom-path": _cpu_path(index),
                "thread-id": os.getpid() + index,
                "props": _place(index),
                "target": "x86_64",
            }
            for index in range(machine.cpus)
        ]

    @registry.command("query-hotpluggable-cpus")
    def query_hotpluggable_cpus() -> Any:
        return [
            {
                "type": "qemu64-x86_64-cpu",
                "vcpus-count": 1,
                "props": _place(index),
                "qom-path": _cpu_path(index),
            }
            for index in reversed(range(machine.cpus))
        ]

    @registry.command("query-memory-size-summary")
    def query_memory_size_summary() -> Any:
        plugged = sum(
            state.objects.get(str(device.get("memdev")), {}).get("size", 0)
            for device in state.devices.values()
            if device["driver"] == "pc-dimm"
        )
        return {"base-memory": machine.memory, "plugged-memory": plugged}


def _cpu_path(index: int) -> str:
    return f"/machine/unattached/device[{index}]"


def _place(index: int) -> dict[str, int]:
    return {"socket-id": index, "core-id": 0, "thread-id": 0}
