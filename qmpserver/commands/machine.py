"""Handlers of ``schema/machine.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.commands.types import CpuInfoFast
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Registry


def qom_path(cpu_index: int) -> str:
    """Return the path by which QMP names a vCPU."""
    return f"/machine/unattached/device[{cpu_index}]"


def register(registry: Registry, machine: Machine) -> None:
    """Bind this file's commands."""

    @registry.command("query-cpus-fast")
    def query_cpus_fast() -> list[CpuInfoFast]:
        return [
            {
                "thread-id": thread_id,
                "props": {"core-id": index, "thread-id": 0, "socket-id": 0},
                "qom-path": qom_path(index),
                "cpu-index": index,
                "target": "x86_64",
            }
            for index, thread_id in enumerate(machine.accel.engine.thread_ids())
        ]
