"""Handlers of `schema/yank.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.monitor import SocketDevice
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.vm.commands.types import YankInstance
    from qmpserver.vm.machine.machine import Machine


def _devices(client: Client) -> list[SocketDevice]:
    return [device for device in client.server.devices if isinstance(device, SocketDevice)]


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("yank", client=True)
    def yank(client: Client, instances: list[YankInstance]) -> None:
        devices = {device.id: device for device in _devices(client)}
        try:
            found = [devices[one["id"]] for one in instances if one["type"] == "chardev"]
        except KeyError:
            found = []
        if len(found) < len(instances):
            raise CommandError("Instance not found", "DeviceNotFound")
        for device in found:
            device.yank()

    @registry.command("query-yank", client=True)
    def query_yank(client: Client) -> list[YankInstance]:
        return [{"type": "chardev", "id": device.id} for device in _devices(client)]
