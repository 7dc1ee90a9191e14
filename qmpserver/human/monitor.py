"""One human monitor: it parses a line, runs the command, and turns errors into text."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from qmpserver.monitor.hmp import LineError, UnknownCommandError, complete, parse
from qmpserver.qmp import CommandError
from qmpserver.releases import NEWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.monitor import Registry
    from qmpserver.monitor.hmp import HumanCommand
    from qmpserver.releases import Release

MAX_COMMAND_LINE = 65536  # a longer one would hold up other clients


class HumanMonitor:
    """One human monitor, which executes lines through the QMP commands of `registry`.

    Belongs to the event loop's thread.

    Args:
        registry: The QMP commands.
        commands: The table of its commands.
        release: The release to speak as.
        terminal: True on a terminal: `migrate` waits for its end.

    Attributes:
        commands: As above.
        release: As above.
        terminal: As above.
        cpu_index: The default vCPU, which the command `cpu` selects.
        history: The lines entered before; empty where no history is kept.
    """

    def __init__(
        self,
        registry: Registry,
        commands: tuple[HumanCommand, ...],
        *,
        release: Release = NEWEST,
        terminal: bool = False,
    ) -> None:
        self._registry = registry
        self.commands = commands
        self.release = release
        self.terminal = terminal
        self.cpu_index = 0
        self.history: Sequence[str] = ()

    async def execute(self, line: str, history: Sequence[str] = ()) -> str | None:
        """Execute one line and return the text to show, or None if no prompt shall follow."""
        self.history = history
        try:
            parsed = parse(self.commands, line)
            if parsed is None:
                return ""
            command, arguments = parsed
            return await command.run(self, **arguments)
        except UnknownCommandError as error:
            return self.unknown(str(error))
        except LineError as error:
            return str(error)
        except CommandError as error:
            return f"Error: {error.desc}\n"

    async def answer(self, line: str, cpu_index: int | None = None) -> str:
        """Return the reply to `human-monitor-command`.

        Raises:
            CommandError: The line is too long, or there is no such vCPU.
        """
        if len(line) > MAX_COMMAND_LINE:
            words = f"expects at most {MAX_COMMAND_LINE} characters"
            raise CommandError(f"Parameter 'command-line' {words}")
        if cpu_index is not None and not await self.select_cpu(cpu_index):
            raise CommandError("Parameter 'cpu-index' expects a CPU number")
        return (await self.execute(line) or "").replace("\n", "\r\n")

    def unknown(self, text: str) -> str:
        """Return what to show for an unknown command; `text` is QEMU's."""
        return text

    async def quit(self) -> None:
        """End the machine."""
        await self.qmp("quit")

    def complete(self, line: str) -> tuple[str, list[str]]:
        """Return the last word of `line`, and its possible completions."""
        return complete(self.commands, line)

    async def qmp(self, name: str, /, **arguments: object) -> Any:
        """Execute a QMP command and return its result; arguments that are None are left out.

        Raises:
            CommandError: The command failed.
        """
        bound = self._registry.find(name)
        declared = bound.declaration.arguments
        names = {member.name for member in declared.members} if declared is not None else set()
        given = {
            key if key in names else key.replace("_", "-"): value
            for key, value in arguments.items()
            if value is not None
        }
        result = self._registry.call(bound, given, None)
        return await result if inspect.isawaitable(result) else result

    async def select_cpu(self, index: int) -> bool:
        """Make vCPU `index` the default and return whether it exists."""
        cpus = await self.qmp("query-cpus-fast")
        exists = any(cpu["cpu-index"] == index for cpu in cpus)
        if exists:
            self.cpu_index = index
        return exists
