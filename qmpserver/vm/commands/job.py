"""Handlers of `schema/job.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import JobInfo
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the command of this file."""

    @registry.command("query-jobs")
    def query_jobs() -> list[JobInfo]:
        return []
