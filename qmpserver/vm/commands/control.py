"""Handlers of `schema/control.json` and `schema/introspect.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver._version import VERSION
from qmpserver.releases import NEWEST

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.releases import Release
    from qmpserver.vm.commands.types import CommandInfo, VersionInfo
    from qmpserver.vm.machine.machine import Machine


def version_info(release: Release = NEWEST) -> VersionInfo:
    """Return the version in the greeting: the release that this program speaks as, and its own."""
    major, minor, micro = map(int, release.version.split("."))
    return {
        # The order of members is visible on the wire.
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": f"qmpserver {VERSION}",
    }


def register_version(registry: Registry, release: Release) -> None:
    """Bind the query of the version."""

    @registry.command("query-version")
    def query_version() -> VersionInfo:
        return version_info(release)


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

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
