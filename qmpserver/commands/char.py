"""Handlers of ``schema/char.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.commands.types import ChardevInfo
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Client, Registry


def register(registry: Registry, machine: Machine) -> None:
    """Bind this file's commands."""

    @registry.command("query-chardev", client=True)
    def query_chardev(client: Client) -> list[ChardevInfo]:
        return [
            {"label": one.id, "filename": one.filename, "frontend-open": one.attached}
            for one in client.server.devices
        ]
