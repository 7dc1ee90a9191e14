"""Scenarios, as tables and as TOML, and stand-ins that play them.

A table and its TOML are read as the same scenario, or refused with the same line. A stand-in that
plays one replies once to each command, as its schema says, to several clients; with faults, which
spoil the replies, it must still end.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from qmpserver.qapi import Command, ParameterError, Schema
from qmpserver.standin import Scenario, ScenarioError, StandIn, vocabulary
from qmpserver.standin.faults import FAULTS
from qmpserver.transcript.conversation import Conversation
from tests.fuzz.explore import Case
from tests.fuzz.messages import TEXTS
from tests.fuzz.values import spoilt, value_of

FILE = "s.toml"
INCLUDED = "i.toml"
SOCKET = "s"
PATIENCE = 60.0
# These end what is played; or stop the process; or keep clients from connecting.
LEFT_OUT = {"quit", "guest-shutdown", "guest-suspend-disk", "guest-suspend-ram", "device_add"}
QUIET = {"stopped-process", "killed-process", "full-backlog"}
SHORT = 0.002  # seconds
COMMANDS = 100  # of a client
GRACE = 0.01  # seconds for replies that a fault holds


def toml(value: object) -> str:
    """Return a value as TOML, inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(name)} = {toml(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    """Return a basic string; TOML has JSON's escapes, but no pairs of surrogates."""
    made = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "".join(f"\\U{ord(one):08x}" if ord(one) > 0xFFFF else one for one in made)


def without_null(value: Any) -> Any:
    """Return a value without null, which TOML does not have."""
    if isinstance(value, dict):
        return {name: without_null(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_null(one) for one in value if one is not None]
    return value


class Maker:
    """Makes a scenario's table for a vocabulary."""

    def __init__(self, rng: random.Random, schema: Schema) -> None:
        self._rng = rng
        self._commands = [one for name, one in schema.commands.items() if name not in LEFT_OUT]
        self._events = list(schema.events.values())

    def table(self) -> dict[str, Any]:
        """Return a whole table."""
        rng = self._rng
        made: dict[str, Any] = {
            "machine": self._some(
                status=rng.choice(["running", "paused", "prelaunch", "inmigrate"]),
                cpus=rng.choice([1, 2, 4]),
                memory=rng.choice([1, 1 << 20, 1 << 40]),
                name=rng.choice(TEXTS),
                uuid=rng.choice(["00000000-0000-0000-0000-000000000001", "x"]),
            )
            | {"migration-time": SHORT, "unplug-time": SHORT},
            "on": [self._reply() for _ in range(rng.randrange(5))],
            "expect": [self._expected() for _ in range(rng.randrange(3))],
        }
        made |= self._some(strict=rng.random() < 0.5, ordered=rng.random() < 0.5, log="log")
        if self._events:
            made["event"] = [self._event() for _ in range(rng.randrange(3))]
        if rng.random() < 0.2:
            made["setup"] = [self._command("arguments")]
        if rng.random() < 0.3:
            made["fault"] = [self._fault() for _ in range(rng.randint(1, 2))]
        cleaned: dict[str, Any] = without_null(made)
        return cleaned

    def _some(self, **values: Any) -> dict[str, Any]:
        return {name: one for name, one in values.items() if self._rng.random() < 0.3}

    def _command(self, *keys: str) -> dict[str, Any]:
        command = self._rng.choice(self._commands)
        made: dict[str, Any] = {"command": command.name}
        if "arguments" in keys:
            made["arguments"] = arguments_of(command, self._rng)
        if "return" in keys and command.returns is not None:
            made["return"] = value_of(command.returns, self._rng)
        return made

    def _reply(self) -> dict[str, Any]:
        rng = self._rng
        made = self._command(*self._some(arguments=1, **{"return": 1}))
        if "return" not in made and rng.random() < 0.4:
            made["error"] = rng.choice(TEXTS)
            made |= self._some(**{"class": rng.choice(["GenericError", "DeviceNotFound"])})
        made |= self._some(
            times=rng.randint(1, 3), delay=SHORT, status=rng.choice(["paused", "running"])
        )
        if self._events and rng.random() < 0.3:
            made["events"] = [self._event()]
            made["before"] = [self._event()]
        return made

    def _event(self) -> dict[str, Any]:
        event = self._rng.choice(self._events)
        made: dict[str, Any] = {"event": event.name, "data": value_of(event.data, self._rng)}
        return made | self._some(after=SHORT)

    def _expected(self) -> dict[str, Any]:
        times = self._rng.choice([0, 1, "1..", "..3", "1..3"])
        return self._command(*self._some(arguments=1)) | self._some(times=times)

    def _fault(self) -> str | dict[str, Any]:
        name = self._rng.choice(sorted(FAULTS.keys() - QUIET))
        if self._rng.random() < 0.3:
            return {"name": name, "seconds": SHORT, "times": self._rng.randint(1, 3)}
        return {"name": name, "seconds": SHORT}


def arguments_of(command: Command, rng: random.Random) -> dict[str, Any]:
    """Make up arguments of a command."""
    made = value_of(command.arguments, rng)
    assert isinstance(made, dict)
    return made


def _read(read: Callable[[], Scenario]) -> Scenario | str:
    try:
        return read()
    except ScenarioError as error:
        return str(error)


def write(file: str, table: Any) -> None:
    """Write a table as TOML."""
    Path(file).write_text("".join(f"{_text(key)} = {toml(one)}\n" for key, one in table.items()))


def read_both(table: Any) -> Scenario | None:
    """Read a table and its TOML; return the scenario, or None if both are refused alike."""
    write(FILE, table)
    loaded, made = (_read(lambda: Scenario.load(FILE)), _read(lambda: Scenario.read(table, FILE)))
    assert loaded == made, (loaded, made)
    if isinstance(loaded, Scenario):
        return loaded
    # A spoilt name can be that of a file, such as a log that a case before has written.
    files = [FILE, INCLUDED, *filter(None, (table.get(key) for key in ("schema", "include")))]
    assert loaded.startswith(tuple(f"{file}:" for file in files)), loaded
    assert "\n" not in loaded, loaded
    return None


class Play:
    """Clients of a stand-in."""

    def __init__(self, rng: random.Random, scenario: Scenario) -> None:
        self._rng = rng
        self._scenario = scenario
        self._loop = asyncio.get_running_loop()
        self.inputs = 0

    async def client(self, negotiates: bool) -> None:
        """Send commands, and read one reply to each."""
        rng, schema = self._rng, self._scenario.schema
        names = [one.name for one in schema.commands.values() if one.success_response]
        names = [name for name in names if name not in LEFT_OUT]
        reader, writer = await asyncio.open_unix_connection(SOCKET, limit=1 << 26)
        try:
            if negotiates:
                assert "QMP" in json.loads(await reader.readline())
                writer.write(b'{"execute": "qmp_capabilities"}')
                await _reply(reader)
            for number in range(rng.randrange(COMMANDS)):
                name = rng.choice(names)
                arguments: Any = arguments_of(schema.commands[name], rng)
                if rng.random() < 0.3:
                    arguments = spoilt(arguments, rng)
                message = {"execute": name, "arguments": arguments, "id": number}
                writer.write(json.dumps(message).encode())
                self.inputs += 1
                self._check(message, await _reply(reader))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _check(self, message: dict[str, Any], reply: dict[str, Any]) -> None:
        """Check a reply; a command that the schema refuses must be refused."""
        assert reply["id"] == message["id"], (message, reply)
        command = self._scenario.schema.commands[message["execute"]]
        if "return" in reply:
            command.validate_result(reply["return"])
            return
        assert isinstance(reply["error"]["desc"], str)
        assert not reply["error"]["desc"].startswith("Internal error"), reply
        with contextlib.suppress(ParameterError, AttributeError, TypeError):
            command.validate(message["arguments"])

    async def faulty(self) -> None:
        """Send commands and read for a while, whatever comes."""
        rng = self._rng
        reader, writer = await asyncio.open_unix_connection(SOCKET, limit=1 << 26)
        commands = ["qmp_capabilities", "query-status", "stop", "cont", "query-name"]
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(b"".join(b'{"execute": "%b"}' % one.encode() for one in commands))
            self.inputs += len(commands)
            async with asyncio.timeout(rng.choice([0.001, 0.02])):
                while await reader.read(65536):
                    pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _reply(reader: asyncio.StreamReader) -> Any:
    while True:
        line = await reader.readline()
        assert line, "the stand-in hung up"
        message = json.loads(line.lstrip(b"\xff"))
        if "event" not in message:
            return message


async def _play(rng: random.Random, scenario: Scenario) -> int:
    try:
        alone = scenario.on_machine({"migration_peer": False})  # addresses are made up
        stand_in = StandIn(alone, conversation=Conversation())
    except ScenarioError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017 -- a setup may be refused
        return 0
    play = Play(rng, scenario)
    try:
        async with asyncio.timeout(PATIENCE):
            await stand_in.serve_unix(SOCKET, max_clients=3)
            if scenario.faults:
                await asyncio.gather(play.faulty(), play.faulty())
            else:
                negotiates = scenario.version is not None
                await asyncio.gather(*(play.client(negotiates) for _ in range(rng.randint(1, 3))))
    finally:
        await stand_in.close(GRACE)
    failures = stand_in.failures()
    assert all("\n" not in one for one in failures), failures
    return play.inputs


def make_option(rng: random.Random) -> int:
    """Read a value of `-fake`."""
    parts = [rng.choice(["default", "none", "nowhere", FILE, ""])]
    for _ in range(rng.randrange(4)):
        key = rng.choice(["schema", "fault", "log", "file", "x", ""])
        value = rng.choice([*vocabulary.NAMED, *FAULTS, *TEXTS, "late-reply:query-status"])
        parts.append(f"{key}={value}")
    try:
        Scenario.from_option(",".join(parts))
    except ScenarioError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017 -- either is right
    return 1


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case is a scenario."""
    loaded = {name: vocabulary.load(name) for name in vocabulary.NAMED}

    def case(rng: random.Random) -> int:
        if rng.random() < 0.1:
            return make_option(rng)
        name = rng.choice(["qemu-7.2", *vocabulary.NAMED])
        maker = Maker(rng, loaded[name].schema)
        table: Any = maker.table() | {"schema": name}
        if rng.random() < 0.2:
            write(INCLUDED, maker.table())
            table["include"] = INCLUDED
        if rng.random() < 0.5:
            for _ in range(rng.randint(1, 3)):
                other = without_null(spoilt(table, rng))
                table = other if isinstance(other, dict) else table
        elif loaded[name].version is not None and rng.random() < 0.3:
            table["version"] = rng.choice(["8.2.0", "1.2.3"])
        scenario = read_both(table)
        if scenario is None:
            return 1
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return 1 + runner.run(_play(rng, scenario))

    yield case
