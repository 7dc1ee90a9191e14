"""The human monitor of a stand-in: the commands about its run state and its name.

QEMU's other commands are accepted, and show nothing.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.hmp import HumanCommand, LineError, complete, help_text, parse, table
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qmpserver.monitor import Registry


class HumanMonitor:
    """One human monitor, which executes lines through QMP commands.

    Args:
        registry: The commands.
        shutdown: Ends the stand-in, for a reason.
    """

    def __init__(self, registry: Registry, shutdown: Callable[[str], None]) -> None:
        self._registry = registry
        self.shutdown = shutdown

    async def execute(self, line: str, history: Sequence[str] = ()) -> str | None:
        """Execute one line and return the text to show, or None if no prompt shall follow."""
        try:
            parsed = parse(COMMANDS, line)
        except LineError as error:
            return "" if str(error).startswith("unknown command") else str(error)
        if parsed is None:
            return ""
        command, arguments = parsed
        try:
            return await command.run(self, **arguments)
        except CommandError as error:
            return f"Error: {error.desc}\n"

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return the last word of `line`, and its possible completions."""
        return complete(COMMANDS, line)

    async def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return its result.

        Raises:
            CommandError: The command failed.
        """
        result = self._registry.call(self._registry.find(command), arguments, None)
        return await result if inspect.isawaitable(result) else result


def _silent(command: str) -> Callable[[HumanMonitor], Awaitable[str]]:
    async def run(monitor: HumanMonitor) -> str:
        await monitor.qmp(command)
        return ""

    return run


async def _device_del(monitor: HumanMonitor, id: str) -> str:  # noqa: A002 -- QEMU's name
    await monitor.qmp("device_del", id=id)
    return ""


async def _quit(monitor: HumanMonitor) -> None:
    monitor.shutdown("host-qmp-quit")


async def _help(monitor: HumanMonitor, name: str = "") -> str:
    return help_text(COMMANDS, name)


async def _info(monitor: HumanMonitor) -> str:
    return help_text(COMMANDS, "info")


async def _info_name(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-name")
    return f"{info['name']}\n" if "name" in info else ""


async def _info_status(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-status")
    running, status = info["running"], info["status"]
    detail = "" if running or status == "paused" else f" ({status})"
    return f"VM status: {'running' if running else 'paused'}{detail}\n"


async def _info_uuid(monitor: HumanMonitor) -> str:
    return f"{(await monitor.qmp('query-uuid'))['UUID']}\n"


async def _info_version(monitor: HumanMonitor) -> str:
    info = await monitor.qmp("query-version")
    release = info["qemu"]
    return f"{release['major']}.{release['minor']}.{release['micro']}{info['package']}\n"


_INFO = table(
    HumanCommand("name", "", "", "show the current VM name", _info_name),
    HumanCommand("status", "", "", "show the current VM status (running|paused)", _info_status),
    HumanCommand("uuid", "", "", "show the current VM UUID", _info_uuid),
    HumanCommand("version", "", "", "show the version of QEMU", _info_version),
)
COMMANDS = table(
    HumanCommand("cont|c", "", "", "resume emulation", _silent("cont")),
    HumanCommand("device_del", "id:s", "device", "remove device", _device_del),
    HumanCommand("help|?", "name:S?", "[cmd]", "show the help", _help),
    HumanCommand(
        "info", "", "[subcommand]", "show various information about the system state", _info, _INFO
    ),
    HumanCommand("quit|q", "", "", "quit the emulator", _quit),
    HumanCommand("stop|s", "", "", "stop emulation", _silent("stop")),
    HumanCommand(
        "system_powerdown", "", "", "send system power down event", _silent("system_powerdown")
    ),
    HumanCommand("system_reset", "", "", "reset the system", _silent("system_reset")),
)
