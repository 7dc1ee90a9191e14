"""The stand-in itself: the real server, with a scenario behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpserver.monitor import Server
from qmpserver.qmp import CommandError
from qmpserver.standin.commands import Commands
from qmpserver.standin.expect import unmet
from qmpserver.standin.faults import AGENT, FAULTS, Spec
from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.state import State, register_all
from qmpserver.standin.wire import Wire
from qmpserver.transcript.conversation import Conversation
from qmpserver.transcript.format import Message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from qmpserver.monitor import Client
    from qmpserver.monitor.channel import Connection
    from qmpserver.standin.parts import ScriptedEvent
    from qmpserver.standin.scenario import Scenario
    from qmpserver.transcript.format import Who

_NEGOTIATION = "qmp_capabilities"


class StandIn(Server):
    """A QMP server without a machine, that does what a scenario says.

    Use it as `Server`: on the event loop's thread, `listen` for clients, `close` in the end.

    Args:
        scenario: What to do.
        own_process: Whether the process is there for this server alone, and may be stopped.

    Attributes:
        said: What clients and server have said to each other.
        finished: Set when a client has ended the machine, or `shutdown` was called.

    Raises:
        ScenarioError: The log can't be written, a command of its setup fails, or it has a fault
            that would stop the process.
    """

    def __init__(self, scenario: Scenario, *, own_process: bool = False) -> None:
        self.scenario = scenario
        commands = Commands(scenario, self._send_later)
        numbers = [int(one) for one in (scenario.version or "0.0.0").split(".")]
        version = {
            "qemu": dict(zip(("major", "minor", "micro"), numbers, strict=True)),
            "package": "",
        }
        super().__init__(
            commands,
            version=None if scenario.version is None else version,
            check_events=False,  # scenarios are checked; a recording is what a server has said
        )
        self.said = _Log(self)
        self.finished = asyncio.Event()
        self._commands = commands
        self._state = State(scenario, self)
        register_all(commands, self._state)
        commands.set_status = self._state.set_status
        commands.shutdown = self.shutdown
        commands.complete()
        self._faults = [FAULTS[spec.name](spec, scenario.schema) for spec in scenario.faults]
        if not own_process and any(spec.name == "stopped-process" for spec in scenario.faults):
            raise ScenarioError("fault stopped-process needs a process of its own")
        if scenario.version is None:
            self._faults.append(AGENT(Spec("delimited"), scenario.schema))
        for command, arguments in scenario.setup:
            try:
                commands.call(commands.find(command), arguments, None)
            except CommandError as error:
                raise ScenarioError(f"setup: {command}: {error.desc}") from None
        self._state.settled()
        if scenario.log is not None:
            try:
                # It is closed by `close`.
                self.said.file = open(scenario.log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            except OSError as error:
                raise ScenarioError(f"log: {scenario.log}: {error.strerror}") from None

    def connect(
        self, channel: Connection, name: str, *, pretty: bool = False, events: bool = True
    ) -> Client:
        """Greet a client; faults are between it and what is logged."""
        if self._faults:
            channel = Wire(channel, self._faults, self._loop, first=not self.clients)
        return super().connect(self.said.listen_in(channel), name, pretty=pretty, events=events)

    def failures(self) -> list[str]:
        """Return what was expected and did not come so far, a line each."""
        failures = unmet(self.scenario, self.said.received())
        if self.scenario.strict:
            failures += [f"refused: {one}" for one in self._commands.refused]
        return failures

    def shutdown(self, reason: str) -> None:
        """End it, with the event that tells clients of it."""
        if not self.finished.is_set():
            if "SHUTDOWN" in self.scenario.schema.events:
                self.emit("SHUTDOWN", {"guest": reason.startswith("guest"), "reason": reason})
            self.finished.set()

    async def close(self, grace: float = 1.0) -> None:
        """Close it as `Server.close` does, and the log."""
        await super().close(grace)
        if self.said.file is not None:
            self.said.file.close()
            self.said.file = None

    def later(self, seconds: float, function: Any, *arguments: Any) -> None:
        """Call it after a while, unless all is over by then; with 0, after the next replies."""
        if seconds:
            self._loop.call_later(seconds, self._unless_finished, function, *arguments)
        else:
            self._loop.call_soon(self._unless_finished, function, *arguments)

    def negotiated(self) -> None:
        """Learn that the first client is about to be past negotiation."""
        self._send_later(self.scenario.events)

    def _unless_finished(self, function: Any, *arguments: Any) -> None:
        if not self.finished.is_set():
            function(*arguments)

    def _send_later(self, events: Iterable[ScriptedEvent]) -> None:
        for event in events:
            if event.after:
                self.later(event.after, self.emit, event.name, event.data)
            else:
                self.emit(event.name, event.data)


class _Log(Conversation):
    """The conversation, and a file that it is written to as a transcript."""

    def __init__(self, fake: StandIn) -> None:
        super().__init__()
        self.file: TextIO | None = None
        self._fake = fake
        self._begun = False

    def hear(self, client: int, who: Who, text: str) -> None:
        """Keep a message."""
        super().hear(client, who, text)
        if self.file is not None:
            self.file.write(f"{Message(who, text, client=client)}\n")
        if not self._begun and who == "client" and _NEGOTIATION in text:
            self._begun = True
            self._fake.later(0, self._fake.negotiated)
