"""Handlers of `schema/misc.json`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from qmpserver.keyval import Kind
from qmpserver.monitor import fd_commands
from qmpserver.qmp import CommandError
from qmpserver.releases import RELEASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.human import HumanMonitor
    from qmpserver.monitor import Registry
    from qmpserver.monitor.hmp import HumanCommand
    from qmpserver.releases import Release
    from qmpserver.vm.commands.types import (
        CommandLineOptionInfo,
        CommandLineParameterType,
        IOThreadInfo,
        NameInfo,
    )
    from qmpserver.vm.machine.machine import Machine


TYPES: dict[Kind, CommandLineParameterType] = {
    Kind.STRING: "string",
    Kind.BOOL: "boolean",
    Kind.NUMBER: "number",
    Kind.SIZE: "size",
    Kind.SIZE_IN_MIB: "size",
}


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

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
            raise CommandError(str(error)) from None

    @registry.command("query-iothreads")
    def query_iothreads() -> list[IOThreadInfo]:
        return []

    for name, handler in fd_commands.HANDLERS.items():
        registry.command(name, client=True)(handler)


def register_human(registry: Registry, release: Release) -> None:
    """Bind the command that executes those of the human monitor."""

    @registry.command("human-monitor-command")
    async def human_monitor_command(command_line: str, cpu_index: int | None = None) -> str:
        return await human_monitor(registry, release).answer(command_line, cpu_index)


def human_monitor(registry: Registry, release: Release, *, terminal: bool = False) -> HumanMonitor:
    """Return a new human monitor; its modules are imported now, or by the program before."""
    from qmpserver.human import HumanMonitor

    commands = _human_commands(release.name)
    return HumanMonitor(registry, commands, release=release, terminal=terminal)


@functools.cache
def _human_commands(release: str) -> tuple[HumanCommand, ...]:
    from qmpserver.human import commands

    return commands(RELEASES[release])


def register_command_line(
    registry: Registry, command_line: Mapping[str, Mapping[str, Kind]]
) -> None:
    """Bind the query of the command line's options, which the program knows."""

    @registry.command("query-command-line-options")
    def query_command_line_options(option: str | None = None) -> list[CommandLineOptionInfo]:
        if option is not None and option not in command_line:
            raise CommandError(f"invalid option name: {option}")
        return [
            {
                "option": name,
                "parameters": [{"name": one, "type": TYPES[kind]} for one, kind in taken.items()],
            }
            for name, taken in command_line.items()
            if option in (None, name)
        ]
