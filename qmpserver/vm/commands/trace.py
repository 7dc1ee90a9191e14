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

    @registry.command("trace-event-get-state")
    def trace_event_get_state(*, name: str) -> list[TraceEventInfo]:
        return [
            {"name": event.name, "state": "enabled" if tracer.enabled(event) else "disabled"}
            for event in reversed(events(name))  # QEMU's order
        ]

    @registry.command("trace-event-set-state")
    def trace_event_set_state(*, name: str, enable: bool, ignore_unavailable: bool = False) -> None:
        for event in events(name):
            tracer.enable(event, enable)
