"""Handlers of `schema/trace.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import TraceEventInfo
    from qmpserver.vm.machine.machine import Machine
    from qmpserver.vm.trace.events import TraceEvent


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""
    tracer = machine.tracer

    def events(name: str) -> list[TraceEvent]:
        try:
            return tracer.events(name)
        except KeyError:
            raise CommandError(f'unknown event "{name}"') from None

    def check_vcpu(name: str, vcpu: int | None) -> None:
        """Refuse a vCPU, which older releases ask for: no event here belongs to one."""
        if vcpu is None:
            return
        if not 0 <= vcpu < len(machine.accel.engine.thread_ids()):
            raise CommandError(f"invalid vCPU index {vcpu}")
        for event in events(name):
            raise CommandError(f'event "{event.name}" is not vCPU-specific')

    @registry.command("trace-event-get-state")
    def trace_event_get_state(*, name: str, vcpu: int | None = None) -> list[TraceEventInfo]:
        check_vcpu(name, vcpu)
        return [
            {"name": event.name, "state": "enabled" if tracer.enabled(event) else "disabled"}
            for event in reversed(events(name))  # QEMU's order
        ]

    @registry.command("trace-event-set-state")
    def trace_event_set_state(
        *,
        name: str,
        enable: bool,
        ignore_unavailable: bool = False,
        vcpu: int | None = None,
    ) -> None:
        check_vcpu(name, vcpu)
        for event in events(name):
            tracer.enable(event, enable)
