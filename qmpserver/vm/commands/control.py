"""Handlers of `schema/control.json` and `schema/introspect.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver._version import VERSION

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.vm.commands.types import CommandInfo, VersionInfo
    from qmpserver.vm.machine.machine import Machine

# The QEMU release whose vocabulary this is. The schema's order of members is visible on the wire.
VERSION_INFO: VersionInfo = {
    "qemu": {"major": 11, "minor": 0, "micro": 0},
    "package": f"qmpserver {VERSION}",
}


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-version")
    def query_version() -> VersionInfo:
        return VERSION_INFO

    @registry.command("query-commands")
    def query_commands() -> list[CommandInfo]:
        return [{"name": name} for name in registry.names]

    @registry.command("query-qmp-schema")
    def query_qmp_schema() -> list[dict[str, object]]:
        return registry.schema.introspect()

    @registry.command("quit", client=True)
    def quit_(client: Client | None) -> None:
        if client is not None:  # a human monitor is not a QMP client
            client.execute_no_more()
        machine.shutdown("host-qmp-quit")
