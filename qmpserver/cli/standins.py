"""The stand-ins of `-fake`: one, or with `machines=N` many in one process.

Each of many has a number, from 1 on; `%d` in the value of an option stands for it.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from typing import TYPE_CHECKING, Any

from qmpserver.cli import messages
from qmpserver.cli.invocation import is_qemu
from qmpserver.cli.settings import CommandLineError
from qmpserver.keyval import OptionError
from qmpserver.monitor import FdAddress, NullChardev, SocketChardev
from qmpserver.standin import ScenarioError, StandIn
from qmpserver.standin.commandline import machine

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings
    from qmpserver.monitor.chardev import Chardev
    from qmpserver.standin import Scenario

NUMBER = "%d"


class Member:
    """A stand-in and the settings that it is made from.

    Raises:
        CommandLineError: An option is malformed, or the scenario cannot be followed.
    """

    def __init__(self, settings: Settings, value: str, scenario: Scenario, *, alone: bool) -> None:
        self.settings = settings
        try:
            self.stand_in = StandIn(scenario.on_machine(_properties(settings)), own_process=alone)
        except ScenarioError as error:
            raise CommandLineError(f"-fake {value}: {error}") from None

    async def launch(self) -> None:
        """Give the machine what the options describe.

        Raises:
            CommandLineError: An option is refused.
        """
        try:
            await self.stand_in.launch(self.settings.machine_options)
        except OptionError as error:
            raise CommandLineError(str(error), error.hint) from None
        for label, path in self.stand_in.terminals.items():
            messages.tell_terminal(label, path)


class StandIns:
    """The stand-ins of one process; of many, each one's monitors close when it ends.

    Attributes:
        members: All of them, in the order of their numbers.
        finished: Set when the last one has ended.

    Raises:
        CommandLineError: They cannot be made as the settings say.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.fake is not None
        value, scenario = settings.fake
        self.members: list[Member] = []
        self._ends: list[asyncio.Task[None]] = []
        if settings.machines is None:
            self.members.append(Member(settings, value, scenario, alone=True))
            self.finished = self.members[0].stand_in.finished
            return
        self.finished = asyncio.Event()
        _check_shared(settings, scenario)
        self._running = settings.machines
        for number in range(1, settings.machines + 1):
            own = scenario if scenario.log is None else _with_log(scenario, number)
            member = Member(_numbered(settings, number), value, own, alone=False)
            self.members.append(member)
            self._ends.append(asyncio.ensure_future(self._end(member.stand_in)))

    def shutdown(self, reason: str) -> None:
        """End all machines, as `StandIn.shutdown` does."""
        for member in self.members:
            member.stand_in.shutdown(reason)

    def failures(self) -> list[str]:
        """Return what `StandIn.failures` does for all of them; with numbers, if there are many."""
        if not self._ends:
            return self.members[0].stand_in.failures()
        return [
            f"machine {number}: {failure}"
            for number, member in enumerate(self.members, 1)
            for failure in member.stand_in.failures()
        ]

    async def close(self) -> None:
        """Close all of them."""
        for end in self._ends:
            end.cancel()
        if self._ends:
            await asyncio.wait(self._ends)
        await asyncio.gather(*(member.stand_in.close() for member in self.members))

    async def _end(self, stand_in: StandIn) -> None:
        await stand_in.finished.wait()
        await stand_in.close()
        self._running -= 1
        if not self._running:
            self.finished.set()


def _check_shared(settings: Settings, scenario: Scenario) -> None:
    """Refuse what machines cannot share: files, and devices that clients connect to."""
    named = [
        (f"-{option} {value}", value)
        for option, value, device in settings.devices
        if not isinstance(device, NullChardev) and not _connects(device)
    ]
    named += [(f"-add-fd {value}", "") for value, *_ in settings.fd_sets]
    if scenario.log is not None:
        named.append((f"log: {scenario.log}", scenario.log))
    for name, value in named:
        if NUMBER not in value and settings.machines != 1:
            raise CommandLineError(
                f"{name}: {settings.machines} machines cannot share it",
                f"Write {NUMBER} where each has its number, as in unix:{NUMBER}.sock",
            )


def _connects(device: Chardev) -> bool:
    """Return whether the device is a socket that connects to somebody who listens."""
    return (
        isinstance(device, SocketChardev)
        and not device.server
        and not isinstance(device.address, FdAddress)
    )


def _numbered(settings: Settings, number: int) -> Settings:
    """Return the settings of one of many machines."""
    own, text = copy.copy(settings), str(number)
    own.chardevs = [value.replace(NUMBER, text) for value in settings.chardevs]
    own.monitors = [(name, value.replace(NUMBER, text)) for name, value in settings.monitors]
    own.machine_options = [
        (name, value.replace(NUMBER, text)) for name, value in settings.machine_options
    ]
    own.qtest = settings.qtest and settings.qtest.replace(NUMBER, text)
    own.qtest_log = settings.qtest_log and settings.qtest_log.replace(NUMBER, text)
    own.name = settings.name and settings.name.replace(NUMBER, text)
    return own


def _with_log(scenario: Scenario, number: int) -> Scenario:
    return scenario._replace(log=(scenario.log or "").replace(NUMBER, str(number)))


def _properties(settings: Settings) -> dict[str, Any]:
    """Return the machine's properties that options set; the scenario sets the others.

    Raises:
        CommandLineError: An option is malformed.
    """
    properties: dict[str, Any] = {
        "m": ("memory", settings.ram),
        "name": ("name", settings.name),
        "uuid": ("uuid", settings.uuid),
        "S": ("status", "prelaunch"),
    }
    made: dict[str, Any] = dict(
        properties[option] for option in properties if option in settings.given
    )
    made["defaults"] = "nodefaults" not in settings.given and is_qemu(sys.argv[0])
    try:
        return made | machine.changes(settings.machine_options)
    except OptionError as error:
        raise CommandLineError(str(error), error.hint) from None
