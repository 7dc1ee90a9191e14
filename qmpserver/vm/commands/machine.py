"""Handlers of `schema/machine.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qmp import CommandError
from qmpserver.vm.machine.guest import MAX_VCPUS
from qmpserver.vm.machine.options import CPU_MODELS, MACHINE_TYPES, VERSIONED
from qmpserver.vm.machine.qom import MACHINE_TYPE, RAM_ID, cpu_topology, cpu_type, vcpu_path

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.vm.commands.types import (
        CpuDefinitionInfo,
        CpuInfoFast,
        CpuInstanceProperties,
        HotpluggableCPU,
        MachineInfo,
        MemoryInfo,
        TargetInfo,
        UuidInfo,
    )
    from qmpserver.vm.machine.machine import Machine


def _properties(cpu_index: int) -> CpuInstanceProperties:
    topology = cpu_topology(cpu_index)
    return {
        "core-id": topology.core_id,
        "thread-id": topology.thread_id,
        "socket-id": topology.socket_id,
    }


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-cpus-fast")
    def query_cpus_fast() -> list[CpuInfoFast]:
        return [
            {
                "thread-id": thread_id,
                "props": _properties(index),
                "qom-path": vcpu_path(index),
                "cpu-index": index,
                "qom-type": cpu_type(machine.accel.name),
                "target": "x86_64",
            }
            for index, thread_id in enumerate(machine.accel.engine.thread_ids())
        ]

    @registry.command("query-hotpluggable-cpus")
    def query_hotpluggable_cpus() -> list[HotpluggableCPU]:
        raise CommandError("machine does not support hot-plugging CPUs")

    @registry.command("query-cpu-definitions")
    def query_cpu_definitions() -> list[CpuDefinitionInfo]:
        return [
            {
                "name": name,
                "typename": cpu_type(machine.accel.name),
                "unavailable-features": [],
                "static": False,
                "migration-safe": False,
                "deprecated": False,
            }
            for name in CPU_MODELS
        ]

    @registry.command("query-machines", client=True)
    def query_machines(client: Client, compat_props: bool = False) -> list[MachineInfo]:
        release = client.server.release.name.removeprefix("qemu-")
        found: list[MachineInfo] = []
        for name in MACHINE_TYPES:
            info: MachineInfo = {
                "hotpluggable-cpus": False,
                "name": name,
                "numa-mem-supported": False,
                "default-cpu-type": cpu_type(machine.accel.name),
                "cpu-max": MAX_VCPUS,
                "deprecated": False,
                "default-ram-id": RAM_ID,
                "acpi": False,
            }
            if name == MACHINE_TYPE:
                info["is-default"] = True
            if name in VERSIONED:
                info |= {"name": VERSIONED[name] + release, "alias": name}
            if compat_props:
                info["compat-props"] = []
            found.append(info)
        return found

    @registry.command("query-target")
    def query_target() -> TargetInfo:
        return {"arch": "x86_64"}

    @registry.command("query-uuid")
    def query_uuid() -> UuidInfo:
        return {"UUID": machine.uuid}

    @registry.command("query-memory-size-summary")
    def query_memory_size_summary() -> MemoryInfo:
        return {"base-memory": machine.ram.size, "plugged-memory": 0}

    @registry.command("system_reset", client=True)
    async def system_reset(client: Client | None) -> None:
        await machine.reset()
        if machine.finished.is_set() and client is not None:  # as after `quit`
            client.execute_no_more()

    @registry.command("system_powerdown")
    def system_powerdown() -> None:
        machine.powerdown()
