"""Handlers of `schema/qdev.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qmp import CommandError
from qmpserver.vm.machine.qom import is_device, type_properties

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import ObjectPropertyInfo
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("device-list-properties")
    def device_list_properties(typename: str) -> list[ObjectPropertyInfo]:
        try:
            device = is_device(typename)
        except KeyError:
            raise CommandError(f"Device '{typename}' not found", "DeviceNotFound") from None
        if not device:
            raise CommandError("Parameter 'typename' expects a non-abstract device type")
        found = type_properties(typename, below="device")
        return [{"name": name, "type": type_} for name, type_ in found.items()]
