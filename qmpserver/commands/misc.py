"""Handlers of ``schema/misc.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qmp import QMPError

if TYPE_CHECKING:
    from qmpserver.commands.types import NameInfo
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Registry


def register(registry: Registry, machine: Machine) -> None:
    """Bind this file's commands."""

    @registry.command("query-name")
    def query_name() -> NameInfo:
        return {} if machine.name is None else {"name": machine.name}

    @registry.command("stop")
    async def stop() -> None:
        await machine.stop()

    @registry.command("cont")
    async def cont() -> None:
        try:
            await machine.cont()
        except RuntimeError as error:
            raise QMPError(str(error)) from None
