"""What a stand-in is to do: read from a TOML file, a table or a transcript, and checked.

README.md tells the format.  Everything that can be wrong is found here, before any client comes.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from qmpserver import transcript
from qmpserver.keyval import split_options
from qmpserver.qapi import ResultError, Schema, SchemaError
from qmpserver.qapi.model import EnumType, ObjectType
from qmpserver.standin import faults, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qmpserver.qapi import Command

EMPTY = ("default", "none")
_ERROR_CLASSES = (
    "GenericError",
    "CommandNotFound",
    "DeviceNotActive",
    "DeviceNotFound",
    "KVMMissingCap",
)


class ScenarioError(Exception):
    """A scenario that can't be played: file, key, what is wrong, what would be right."""


class ScriptedEvent(NamedTuple):
    """An event to send, `after` so many seconds."""

    name: str
    data: dict[str, Any] | None
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command is answered, where its arguments fit.

    Attributes:
        arguments: Those that it must have, others or not; None for any.
        times: How often; None for always.
        result: What it returns, unless there is an `error`; None leaves it to state and schema.
        error: The error's text, and its class.
        delay: Seconds before it is answered.
        before: Events sent before the reply.
        events: Events sent after it.
        status: The run state from then on.
        shutdown: Why everything ends after it; None if it does not.
        exact: It must have these arguments and no others.
    """

    command: str
    arguments: dict[str, Any] | None = None
    times: int | None = None
    result: Any = None
    returns: bool = False
    error: tuple[str, str] | None = None
    delay: float = 0.0
    before: Sequence[ScriptedEvent] = ()
    events: Sequence[ScriptedEvent] = ()
    status: str | None = None
    shutdown: str | None = None
    exact: bool = False

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether it answers a command with these arguments."""
        if self.arguments is None:
            return True
        more = {} if self.exact else {transcript.MORE: transcript.MORE}
        return not transcript.compare({**self.arguments, **more}, arguments)


@dataclass(frozen=True, slots=True)
class Expectation:
    """A command that has to come, so many times."""

    command: str
    arguments: dict[str, Any] | None = None
    least: int = 1
    most: int | None = None

    def fits(self, name: str, arguments: dict[str, Any]) -> bool:
        """Whether this is the command."""
        return name == self.command and (
            self.arguments is None
            or not transcript.compare(
                {**self.arguments, transcript.MORE: transcript.MORE}, arguments
            )
        )

    def __str__(self) -> str:
        return f"{self.command} {json.dumps(self.arguments)}" if self.arguments else self.command


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the state of the machine is at first; sizes in bytes, times in seconds."""

    status: str = "running"
    cpus: int = 1
    memory: int = 128 << 20
    name: str | None = None
    uuid: str = "00000000-0000-0000-0000-000000000000"
    migration_time: float = 0.1
    unplug_time: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a stand-in is to do.

    Attributes:
        version: What the greeting tells; None for the guest agent, which does not greet.
        setup: Commands that have been executed when the first client comes.
        replies: The first one that fits and is not used up answers.
        events: Events sent so long after the first client's negotiation.
        ordered: Whether what is expected has to come in that order.
        strict: Whether a command that the schema refuses is a failure.
        log: The file that the conversation is written to.
    """

    schema: Schema
    version: str | None
    machine: MachineState = field(default_factory=MachineState)
    setup: Sequence[tuple[str, dict[str, Any]]] = ()
    replies: Sequence[Reply] = ()
    events: Sequence[ScriptedEvent] = ()
    expected: Sequence[Expectation] = ()
    ordered: bool = False
    strict: bool = False
    faults: Sequence[faults.Spec] = ()
    log: str | None = None

    @classmethod
    def load(cls, name: str, schema: str | None = None) -> Self:
        """Read a scenario's file; ``default`` is an empty scenario.

        Args:
            name: The file: TOML, or a transcript.
            schema: The schema's name, in place of the one that the file names.

        Raises:
            ScenarioError: It can't be read, or makes no sense.
        """
        if name in EMPTY:
            return cls.read({}, schema=schema)
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ScenarioError(f"{name}: text is not UTF-8") from None
        except OSError as error:
            raise ScenarioError(f"{name}: {error.strerror}") from None
        if _TRANSCRIPT.search(text):
            return cls._recorded(name, text, schema)
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ScenarioError(f"{name}: {error}") from None
        return cls.read(table, name, path.parent, schema)

    @classmethod
    def read(
        cls,
        table: Mapping[str, Any],
        name: str = "scenario",
        directory: Path = Path(),
        schema: str | None = None,
    ) -> Self:
        """Read a scenario from what its TOML file would say.

        Args:
            table: The file's keys and values.
            name: What errors call it.
            directory: Where the files are that it names.
            schema: The schema's name, in place of the one that the table names.

        Raises:
            ScenarioError: It makes no sense.
        """
        top = _Table(name, "", table)
        vocabulary = _vocabulary(top, directory, schema)
        reader = _Reader(vocabulary.schema)
        made = cls(
            vocabulary.schema,
            vocabulary.version,
            machine=reader.machine(top.table("machine")),
            setup=[reader.setup(one) for one in top.tables("setup")],
            replies=[reader.reply(one) for one in top.tables("on")],
            events=[reader.event(one) for one in top.tables("event")],
            expected=[reader.expectation(one) for one in top.tables("expect")],
            ordered=top.boolean("ordered"),
            strict=top.boolean("strict"),
            faults=[reader.fault(one) for one in top.tables("fault", shorthand="name")],
            log=top.string("log"),
        )
        top.done()
        return made

    @classmethod
    def asked_for(cls, option: str) -> Self:
        """Read what ``-fake`` takes: ``FILE[,schema=NAME][,fault=NAME]...[,log=FILE]``.

        Raises:
            ScenarioError: It makes no sense.
        """
        values: dict[str, list[str]] = {"file": [], "schema": [], "fault": [], "log": []}
        for name, value, _ in split_options(option, "file"):
            if name not in values:
                raise ScenarioError(_unknown("option", name, values))
            values[name].append(value)
        files, names, logs = values["file"], values["schema"], values["log"]
        made = cls.load(files[-1] if files else EMPTY[0], names[-1] if names else None)
        made = made.with_faults(values["fault"])
        return replace(made, log=logs[-1]) if logs else made

    def with_faults(self, texts: Iterable[str]) -> Self:
        """Return it with more faults, each ``NAME`` or ``NAME:COMMAND``.

        Raises:
            ScenarioError: There is no such fault, or command.
        """
        reader = _Reader(self.schema)
        more = [reader.fault(_Table("fault", "", {"name": text})) for text in texts]
        return replace(self, faults=[*self.faults, *more])

    def on_machine(self, changes: Mapping[str, Any]) -> Self:
        """Return it with another machine: changes to `MachineState`."""
        return replace(self, machine=replace(self.machine, **changes))

    @classmethod
    def _recorded(cls, name: str, text: str, schema: str | None) -> Self:
        try:
            recorded = transcript.read(text)
        except transcript.TranscriptError as error:
            raise ScenarioError(f"{name}: {error}") from None
        made: Self = _Recording(name, recorded.messages).scenario(cls, schema)
        return made


# What the first line that is no comment begins with: an arrow, an object, or socat's mark.
_TRANSCRIPT = re.compile(r"\A(?:\s*#[^\n]*\n|\s)*(?:[1-9]?(?:->|<-|=>|\+>)|\{|\$ |[<>] \d)")


def _vocabulary(top: _Table, directory: Path, name: str | None) -> vocabulary.Vocabulary:
    told = top.string("schema")
    try:
        found = vocabulary.load(
            name or told or vocabulary.DEFAULT, directory if not name else Path()
        )
    except SchemaError as error:
        raise ScenarioError(f"{top.place('schema')}: {error}") from None
    except OSError as error:
        known = ", ".join(vocabulary.NAMED)
        raise ScenarioError(
            f"{top.place('schema')}: {error.filename}: {error.strerror}; it is a file or {known}"
        ) from None
    version = top.string("version")
    if version is not None:
        numbers = version.split(".")
        if found.version is None:
            raise top.error("version", "the guest agent does not greet, so it tells none")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise top.error("version", f"'{version}' is not like 7.2.0")
        found = found._replace(version=version)
    return found


class _Table:
    """A table of the file: gives its values by key, and at the end complains of the others."""

    def __init__(self, file: str, where: str, values: object) -> None:
        self._file = file
        self._where = where
        self._known: list[str] = []
        if not isinstance(values, dict):
            raise ScenarioError(f"{file}: {where}: {_shown(values)} is not a table")
        self._values = values

    def place(self, key: str) -> str:
        """Return where in the file a key is."""
        return f"{self._file}: {f'{self._where}.{key}'.removeprefix('.')}"

    def error(self, key: str, message: str) -> ScenarioError:
        """Return, for the caller to raise, what is wrong with a value."""
        return ScenarioError(f"{self.place(key)}: {message}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        self._known.append(key)
        return self._values.get(key)

    def string(self, key: str) -> str | None:
        value: str | None = self._typed(key, "a string", str)
        return value

    def needed(self, key: str) -> str:
        value = self.string(key)
        if value is None:
            raise self.error(key, "missing, a string is needed")
        return value

    def boolean(self, key: str) -> bool:
        return bool(self._typed(key, "true or false", bool))

    def integer(self, key: str, least: int = 0) -> int | None:
        value: int | None = self._typed(key, "a whole number", int)
        if value is not None and value < least:
            raise self.error(key, f"{value} is less than {least}")
        return value

    def seconds(self, key: str) -> float | None:
        value: float | None = self._typed(key, "a number of seconds", int, float)
        if value is not None and value < 0:
            raise self.error(key, f"{value} is negative")
        return value

    def object(self, key: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._typed(key, "a table", dict)
        return value

    def table(self, key: str) -> _Table:
        return _Table(self._file, f"{self._where}.{key}".lstrip("."), self.get(key) or {})

    def tables(self, key: str, shorthand: str | None = None) -> list[_Table]:
        """Return a list of tables; with `shorthand`, a string stands for a table of that key."""
        values = self._typed(key, "a list", list) or []
        return [
            _Table(
                self._file,
                f"{self._where}.{key}[{number}]".lstrip("."),
                {shorthand: value} if shorthand and isinstance(value, str) else value,
            )
            for number, value in enumerate(values, 1)
        ]

    def done(self) -> None:
        for key in self._values:
            if key not in self._known:
                raise self.error(key, _unknown("key", key, self._known))

    def _typed(self, key: str, what: str, *types: type) -> Any:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.error(key, f"{_shown(value)} is not {what}")
        return value


class _Reader:
    """Reads the parts of a scenario, and holds them against the schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def machine(self, table: _Table) -> MachineState:
        standard = MachineState()
        uuid = table.string("uuid")
        migration, unplug = table.seconds("migration-time"), table.seconds("unplug-time")
        made = MachineState(
            status=self._status(table, "status") or standard.status,
            cpus=table.integer("cpus", 1) or standard.cpus,
            memory=table.integer("memory", 1) or standard.memory,
            name=table.string("name"),
            uuid=uuid or standard.uuid,
            migration_time=standard.migration_time if migration is None else migration,
            unplug_time=standard.unplug_time if unplug is None else unplug,
        )
        table.done()
        return made

    def setup(self, table: _Table) -> tuple[str, dict[str, Any]]:
        command = self._command(table)
        arguments = table.object("arguments") or {}
        table.done()
        try:
            return command.name, command.validate(arguments)
        except ValueError as error:
            raise table.error("arguments", str(error)) from None

    def reply(self, table: _Table) -> Reply:
        command = self._command(table)
        error, error_class = table.string("error"), table.string("class")
        if error_class is not None and (error is None or error_class not in _ERROR_CLASSES):
            known = ", ".join(_ERROR_CLASSES)
            raise table.error("class", f"goes with an error, and is one of {known}")
        result = table.get("return")
        if result is not None:
            if error is not None:
                raise table.error("error", "there is a return too: only one of them can be had")
            try:
                command.validate_result(result)
            except ResultError as broken:
                raise table.error("return", str(broken)) from None
        delay = table.seconds("delay") or 0.0
        if delay and command.allow_oob:
            raise table.error("delay", f"{command.name} is executed out of band, and never waits")
        made = Reply(
            command.name,
            self._pattern(table, command),
            table.integer("times", 1),
            result,
            returns="return" in table,
            error=None if error is None else (error, error_class or "GenericError"),
            delay=delay,
            before=[self.event(one) for one in table.tables("before")],
            events=[self.event(one) for one in table.tables("events")],
            status=self._status(table, "status"),
            shutdown=self._shutdown(table),
        )
        table.done()
        return made

    def event(self, table: _Table) -> ScriptedEvent:
        name = table.needed("event")
        declared = self._schema.events.get(name)
        if declared is None:
            raise table.error("event", _unknown("event", name, self._schema.events))
        data = table.object("data")
        try:
            declared.validate(data)
        except ResultError as error:
            raise table.error("data", str(error)) from None
        made = ScriptedEvent(name, data, table.seconds("after") or 0.0)
        table.done()
        return made

    def expectation(self, table: _Table) -> Expectation:
        command = self._command(table)
        pattern = self._pattern(table, command)
        times = table.get("times")
        least, most = 1, None
        if isinstance(times, int) and not isinstance(times, bool) and times >= 0:
            least = most = times
        elif isinstance(times, str) and (bounds := _range(times)) is not None:
            least, most = bounds
        elif times is not None:
            raise table.error("times", f'{_shown(times)} is not a number, "1..", "..3" or "1..3"')
        table.done()
        return Expectation(command.name, pattern, least, most)

    def fault(self, table: _Table) -> faults.Spec:
        name, _, where = table.needed("name").partition(":")
        if name not in faults.FAULTS:
            raise table.error("name", _unknown("fault", name, faults.FAULTS))
        if name in faults.NEED_EVENTS and not self._schema.events:
            raise table.error("name", f"{name} needs events, and this schema has none")
        where = table.string("where") or where
        known = {**self._schema.commands, **self._schema.events}
        if where and where not in known:
            raise table.error("where", _unknown("command or event", where, known))
        made = faults.Spec(name, where or None, table.integer("times", 1), table.seconds("seconds"))
        table.done()
        return made

    def _command(self, table: _Table) -> Command:
        name = table.needed("command")
        command = self._schema.commands.get(name)
        if command is None:
            raise table.error("command", _unknown("command", name, self._schema.commands))
        return command

    def _pattern(self, table: _Table, command: Command) -> dict[str, Any] | None:
        """Read arguments to compare with: their values may be patterns, their names may not."""
        arguments = table.object("arguments")
        taken = command.arguments
        if arguments and command.gen and not taken.branches:
            names = [member.name for member in taken.members]
            for name in arguments:
                if name not in (*names, transcript.MORE):
                    raise table.error(f"arguments.{name}", _unknown("argument", name, names))
        return arguments

    def _shutdown(self, table: _Table) -> str | None:
        reason = table.string("shutdown")
        event = self._schema.events.get("SHUTDOWN")
        if reason is not None and event is not None:
            try:
                event.validate({"guest": True, "reason": reason})
            except ResultError as error:
                raise table.error("shutdown", str(error)) from None
        return reason

    def _status(self, table: _Table, key: str) -> str | None:
        status = table.string(key)
        if status is not None:
            known = run_states(self._schema)
            if status not in known:
                raise table.error(key, _unknown("run state", status, known))
        return status


def run_states(schema: Schema) -> list[str]:
    """Return the run states that ``query-status`` can tell."""
    query = schema.commands.get("query-status")
    returns = query.returns if query is not None else None
    members = returns.members if isinstance(returns, ObjectType) else []
    kinds = [one.type for one in members if one.name == "status"]
    return [one.name for kind in kinds if isinstance(kind, EnumType) for one in kind.values]


# The session's, and what ends it with an event of its own.
_NOT_RECORDED = ("qmp_capabilities", "quit")


class _Recording:
    """Replies as they were recorded: those to the same command come in the same order again."""

    def __init__(self, file: str, messages: Sequence[transcript.Message]) -> None:
        self._file = file
        self._messages = messages

    def scenario(self, kind: type[Scenario], schema: str | None) -> Any:
        """Return a `kind` of scenario that plays it."""
        greeting = next((one.value["QMP"] for one in self._messages if one.is_greeting), None)
        replies = list(self._replies())
        vocabulary = self._vocabulary(schema, replies)
        for line, reply in replies:
            if reply.error is None and reply.command not in vocabulary.schema.commands:
                unknown = _unknown("command", reply.command, vocabulary.schema.commands)
                raise ScenarioError(f"{self._file}:{line}: {unknown}; give the server's own schema")
        version = vocabulary.version
        if greeting is not None and version is not None:
            numbers = greeting.get("version", {}).get("qemu", {})
            version = ".".join(str(numbers.get(one, 0)) for one in ("major", "minor", "micro"))
        known = [
            one
            for _, one in replies
            if one.command in vocabulary.schema.commands and one.command not in _NOT_RECORDED
        ]
        return kind(vocabulary.schema, version, replies=_lasting(known))

    def _vocabulary(
        self, name: str | None, replies: Sequence[tuple[int, Reply]]
    ) -> vocabulary.Vocabulary:
        for line, reply in replies:
            if name is None and reply.command == "query-qmp-schema" and reply.result:
                try:
                    schema = Schema.from_introspection(reply.result)
                except SchemaError as error:
                    raise ScenarioError(f"{self._file}:{line}: {error}") from None
                return vocabulary.Vocabulary(schema, "0.0.0")
        return _vocabulary(_Table(self._file, "", {}), Path(), name)

    def _replies(self) -> Iterable[tuple[int, Reply]]:
        """Yield replies, each with the line of its command."""
        waiting: list[transcript.Message] = []
        before: list[ScriptedEvent] = []
        made: tuple[int, Reply] | None = None
        for one in self._messages:
            if one.who == "client":
                if one.command is not None:
                    waiting.append(one)
                continue
            if one.is_greeting or not isinstance(one.value, dict) or _answers_nothing(one.value):
                continue
            if one.is_event:
                event = ScriptedEvent(one.value["event"], one.value.get("data"))
                if waiting or made is None:
                    before.append(event)
                else:
                    made = made[0], replace(made[1], events=[*made[1].events, event])
                continue
            asked = [command for command in waiting if _id(command) == _id(one)]
            if not asked:
                continue
            waiting.remove(asked[0])
            if made is not None:
                yield made
            made = asked[0].line, _recorded_reply(asked[0], one.value, before)
            before = []
        if made is not None:
            yield made


def _id(message: transcript.Message) -> object:
    return message.value.get("id")


def _answers_nothing(value: dict[str, Any]) -> bool:
    """Whether it is an error of what was no command."""
    desc = value.get("error", {}).get("desc", "")
    return str(desc).startswith(("JSON parse error", "QMP input"))


def _recorded_reply(
    command: transcript.Message, value: dict[str, Any], before: Sequence[ScriptedEvent]
) -> Reply:
    error = value.get("error")
    return Reply(
        command.command or "",
        command.value.get("arguments", {}),
        times=1,
        result=value.get("return"),
        returns="return" in value,
        error=None if error is None else (error["desc"], error["class"]),
        before=before,
        exact=True,
    )


def _lasting(replies: Sequence[Reply]) -> list[Reply]:
    """Let the last reply to each command stay, for a client that asks more often."""
    made: list[Reply] = []
    lasting: set[str] = set()
    for reply in reversed(replies):
        key = json.dumps([reply.command, reply.arguments], sort_keys=True)
        made.append(reply if key in lasting else replace(reply, times=None))
        lasting.add(key)
    return made[::-1]


def _range(text: str) -> tuple[int, int | None] | None:
    least, dots, most = text.partition("..")
    if dots and text != ".." and all(one == "" or one.isdecimal() for one in (least, most)):
        return int(least or 0), int(most) if most else None
    return None


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value).replace("True", "true")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"there is no {what} '{name}', but '{near[0]}'"
    listed = f": {', '.join(names)}" if len(names) <= 20 else ""
    return f"there is no {what} '{name}'{listed}"
