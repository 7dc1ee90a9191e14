"""Handlers of `schema/char.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.vm.commands.types import ChardevInfo
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    @registry.command("query-chardev", client=True)
    def query_chardev(client: Client) -> list[ChardevInfo]:
        peers = client.server.release.shows_peers
        return [
            {"label": one.id, "filename": one.shown(peers), "frontend-open": one.attached}
            for one in client.server.devices
        ]
