"""The stand-in: the server, with a scenario in place of a machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError
from qmpserver.monitor import Server
from qmpserver.qmp import CommandError
from qmpserver.standin import commandline
from qmpserver.standin.commandline.launch import Launch
from qmpserver.standin.commands import Commands
from qmpserver.standin.expect import Expectations
from qmpserver.standin.log import Log
from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.state import State
from qmpserver.standin.state.handlers import register_all
from qmpserver.standin.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.monitor import Client, Device
    from qmpserver.monitor.channel import Connection
    from qmpserver.standin.faults import Fault
    from qmpserver.standin.human import HumanMonitor
    from qmpserver.standin.parts import ScriptedEvent
    from qmpserver.standin.scenario import Scenario
    from qmpserver.standin.tap import Sink
    from qmpserver.transcript.conversation import Conversation
    from qmpserver.transcript.message import Message

_NEGOTIATION = "qmp_capabilities"

MAX_WAITING_EVENTS = 10_000
"""Scripted events that wait for their time."""


class StandIn(Server):
    """A QMP server without a machine, which does what a scenario says.

    Use it as `Server`, on the event loop's thread: `listen` for clients, `close` at the end.

    Args:
        scenario: The scenario.
        own_process: Whether the process serves nothing else, so that a fault may stop it.
        conversation: Where to keep the messages of all clients. Without it, messages are decoded
            only for a log, for expectations and until the scenario's events begin.
        after: A stand-in that has ended, whose place this one takes: its expectations, failures,
            log and the numbers of its clients go on.

    Attributes:
        scenario: The scenario.
        own_process: Whether the process serves nothing else.
        finished: Set when a client has ended the machine, or `shutdown` was called.

    Raises:
        ScenarioError: The log cannot be written, a command of the setup fails, or the scenario has
            a fault that would stop a process that is not the stand-in's own.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        own_process: bool = False,
        conversation: Conversation | None = None,
        after: StandIn | None = None,
    ) -> None:
        self.scenario = scenario
        self.own_process = own_process
        commands = Commands(scenario, self._send_later)
        version = {"qemu": _triple(scenario.version or "0.0.0"), "package": ""}
        super().__init__(
            commands,
            version=None if scenario.version is None else version,
            human=self._human_monitor,
            # A scenario was checked when it was read; a recording may differ from its schema.
            check_events=False,
            release=scenario.release,
        )
        self.finished = asyncio.Event()
        self._commands = commands
        self._state = State(scenario, self)
        self._launch = Launch(commands, self._state)
        register_all(commands, self._state)
        commands.command("human-monitor-command")(self._human_command)
        commands.set_status = self._state.set_status
        commands.shutdown = self.shutdown
        commands.permits = self._state.permits
        commands.complete()
        self._faults = _faults(scenario, own_process)
        for number, (command, arguments) in enumerate(scenario.setup, 1):
            try:
                commands.prepare(command, arguments)
            except CommandError as error:
                raise ScenarioError(f"setup[{number}]: {command}: {error.desc}") from None
        self._state.settled()
        self._expectations = Expectations(scenario.expected, ordered=scenario.ordered)
        self._connected = 0
        self._waiting_events = 0
        self._unsent_events = 0
        if after is not None:
            self._expectations = after._expectations
            self._connected = after._connected
            self._unsent_events = after._unsent_events
            commands.refused.extend(after._commands.refused)
        self._log = None if scenario.log is None else _open_log(scenario.log, after is not None)
        self._sinks: list[Sink] = []  # in the order in which each message is delivered
        if scenario.expected:
            self._sinks.append(self._expectations.take)
        if conversation is not None:
            self._sinks.append(conversation.add)
        if self._log is not None:
            self._sinks.append(self._log.write)
        if scenario.events:
            self._sinks.append(self._begin_events)

    def add_device(self, device: Device) -> Device:
        """Add an open device as `Server.add_device` does; faults may act on it."""
        for fault in self._faults:
            fault.opened(device)
        return super().add_device(device)

    def drop_device(self, name: str) -> None:
        """Close a device that no monitor uses, if there is one with this id."""
        device = self._devices.get(name)
        if device is not None and not device.attached:
            self._devices.pop(name).close()

    async def launch(self, options: Iterable[tuple[str, str]]) -> None:
        """Give the machine what a command line of QEMU describes; call it before clients connect.

        Args:
            options: Names without the dash, each with its value; "" for an option without one.
                Options that have no effect on the state are skipped.

        Raises:
            OptionError: An option is refused; the message names it.
        """
        with self._state.setup():
            commandline.apply(options, self._launch)
        uri = self._state.incoming
        if uri is not None and uri != "defer":
            try:
                await self._state.await_migration(uri)
            except CommandError as error:
                raise OptionError(f"-incoming {uri}: {error.desc}") from None

    def connect(
        self, channel: Connection, name: str, *, pretty: bool = False, events: bool = True
    ) -> Client:
        """Greet a client; faults act on the bytes behind the tap, so logs do not have them."""
        if self._faults:
            from qmpserver.standin.wire import Wire  # which came with the faults

            channel = Wire(channel, self._faults, self._loop, first=not self.clients)
        if self._sinks:
            self._connected += 1
            channel = Tap(channel, self._connected, self._sinks)
        return super().connect(channel, name, pretty=pretty, events=events)

    @property
    def terminals(self) -> dict[str, str]:
        """The paths of its pseudo-terminals, by the ids of their character devices."""
        return {name: one["pty"] for name, one in self._state.chardevs.items() if "pty" in one}

    def failures(self) -> list[str]:
        """Return the expectations that are not met so far, and other failures, as text."""
        failures = self._expectations.unmet()
        if self.scenario.strict:
            failures += [f"refused: {one}" for one in self._commands.refused]
        if self._unsent_events:
            failures.append(
                f"{self._unsent_events} events were not sent: "
                f"no more than {MAX_WAITING_EVENTS} can wait for their time"
            )
        if self._log is not None and self._log.failure is not None:
            failures.append(self._log.failure)
        return failures

    def shutdown(self, reason: str) -> None:
        """End the machine: send SHUTDOWN, and set `finished`; only the first call has an effect."""
        if not self.finished.is_set():
            if "SHUTDOWN" in self.scenario.schema.events:
                self.emit("SHUTDOWN", {"guest": reason.startswith("guest"), "reason": reason})
            self.finished.set()

    async def close(self, grace: float = 1.0) -> None:
        """Close it as `Server.close` does, and the log."""
        await super().close(grace)
        await self._state.close()
        if self._log is not None:
            self._log.close()

    def later(self, seconds: float, function: Any, *arguments: Any) -> asyncio.Handle:
        """Call a function after a delay (0: after the next replies) unless it has ended."""
        if seconds:
            return self._loop.call_later(seconds, self._unless_finished, function, *arguments)
        return self._loop.call_soon(self._unless_finished, function, *arguments)

    def _human_monitor(self) -> HumanMonitor:
        return self._new_human_monitor(terminal=True)

    def _new_human_monitor(self, *, terminal: bool) -> HumanMonitor:
        from qmpserver.standin.human import HumanMonitor  # the program imports it before

        return HumanMonitor(self._launch, self.scenario.release, self.shutdown, terminal=terminal)

    async def _human_command(self, command_line: str, cpu_index: int | None = None) -> str:
        return await self._new_human_monitor(terminal=False).answer(command_line, cpu_index)

    def _begin_events(self, message: Message) -> None:
        # Not `message.command`: QEMU's JSON dialect has strings in single quotes too.
        if message.who == "client" and _NEGOTIATION in message.text:
            self._sinks.remove(self._begin_events)
            self.later(0, self._send_later, self.scenario.events)

    def _unless_finished(self, function: Any, *arguments: Any) -> None:
        if not self.finished.is_set():
            function(*arguments)

    def _send_later(self, events: Iterable[ScriptedEvent]) -> None:
        for event in events:
            if not event.after:
                self.emit(event.name, event.data)
            elif self._waiting_events < MAX_WAITING_EVENTS:
                self._waiting_events += 1
                self.later(event.after, self._send_waiting, event)
            else:
                self._unsent_events += 1

    def _send_waiting(self, event: ScriptedEvent) -> None:
        self._waiting_events -= 1
        self.emit(event.name, event.data)


def _faults(scenario: Scenario, own_process: bool) -> list[Fault]:
    if not scenario.faults and not scenario.early and scenario.version is not None:
        return []
    from qmpserver.standin.faults import AGENT, EARLY, FAULTS, Spec  # most scenarios have none

    made: list[Fault] = [FAULTS[spec.name](spec, scenario.schema) for spec in scenario.faults]
    for spec in scenario.faults:
        if FAULTS[spec.name].needs_process and not own_process:
            raise ScenarioError(f"fault {spec.name} needs a process of its own")
    if scenario.early:
        made.append(EARLY(scenario.early, scenario.schema))
    if scenario.version is None:
        made.append(AGENT(Spec("delimited"), scenario.schema))
    return made


def _triple(version: str) -> dict[str, int]:
    try:
        numbers = [int(one) for one in version.split(".")]
        return dict(zip(("major", "minor", "micro"), numbers, strict=True))
    except ValueError:
        raise ScenarioError(f"version: '{version}' is not a version such as 7.2.0") from None


def _open_log(path: str, more: bool) -> Log:
    try:
        return Log(path, more=more)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ScenarioError(f"log: {path}: {getattr(error, 'strerror', error)}") from None
