"""Handlers of ``schema/misc.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.commandline import PARAMETERS
from qmpserver.options import Kind
from qmpserver.qmp import QMPError

if TYPE_CHECKING:
    from qmpserver.commands.types import (
        AddfdInfo,
        CommandLineOptionInfo,
        CommandLineParameterType,
        FdsetFdInfo,
        FdsetInfo,
        IOThreadInfo,
        NameInfo,
    )
    from qmpserver.machine.machine import Machine
    from qmpserver.monitor import Client, Registry
    from qmpserver.monitor.fds import Member

TYPES: dict[Kind, CommandLineParameterType] = {
    Kind.STRING: "string",
    Kind.BOOL: "boolean",
    Kind.NUMBER: "number",
    Kind.SIZE: "size",
    Kind.SIZE_IN_MIB: "size",
}


def _fd(member: Member) -> FdsetFdInfo:
    if member.opaque is None:
        return {"fd": member.fd}
    return {"fd": member.fd, "opaque": member.opaque}


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

    @registry.command("human-monitor-command")
    async def human_monitor_command(command_line: str, cpu_index: int | None = None) -> str:
        from qmpserver.commands.human import HumanMonitor

        monitor = HumanMonitor(registry)
        if cpu_index is not None and not await monitor.select_cpu(cpu_index):
            raise QMPError("Parameter 'cpu-index' expects a CPU number")
        shown = await monitor.execute(command_line)
        return (shown or "").replace("\n", "\r\n")

    @registry.command("query-iothreads")
    def query_iothreads() -> list[IOThreadInfo]:
        return []

    @registry.command("getfd", client=True)
    def getfd(client: Client, fdname: str) -> None:
        client.server.fds.keep(client.monitor, fdname, client.take_fd())

    @registry.command("closefd", client=True)
    def closefd(client: Client, fdname: str) -> None:
        client.server.fds.drop(client.monitor, fdname)

    @registry.command("add-fd", client=True)
    def add_fd(client: Client, fdset_id: int | None = None, opaque: str | None = None) -> AddfdInfo:
        fd = client.take_fd()
        return {"fdset-id": client.server.fds.add(fd, fdset_id, opaque), "fd": fd}

    @registry.command("remove-fd", client=True)
    def remove_fd(client: Client, fdset_id: int, fd: int | None = None) -> None:
        client.server.fds.remove(fdset_id, fd)

    @registry.command("query-fdsets", client=True)
    def query_fdsets(client: Client) -> list[FdsetInfo]:
        return [
            {"fdset-id": number, "fds": [_fd(member) for member in members]}
            for number, members in client.server.fds.sets.items()
        ]

    @registry.command("query-command-line-options")
    def query_command_line_options(option: str | None = None) -> list[CommandLineOptionInfo]:
        if option is not None and option not in PARAMETERS:
            raise QMPError(f"invalid option name: {option}")
        return [
            {
                "option": name,
                "parameters": [{"name": one, "type": TYPES[kind]} for one, kind in taken.items()],
            }
            for name, taken in PARAMETERS.items()
            if option in (None, name)
        ]
