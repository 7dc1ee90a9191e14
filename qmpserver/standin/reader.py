"""The tables of a scenario's file, read and checked against the schema."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_uuid
from qmpserver.qapi import ResultError, Schema, SchemaError
from qmpserver.qapi.model import EnumType, ObjectType
from qmpserver.standin import vocabulary
from qmpserver.standin.parts import Expectation, MachineState, Reply, ScriptedEvent
from qmpserver.standin.table import shown, unknown
from qmpserver.transcript.compare import MORE, PatternError, check_patterns

if TYPE_CHECKING:
    from qmpserver.qapi import Command
    from qmpserver.qapi.model import Type
    from qmpserver.standin.faults import Spec
    from qmpserver.standin.table import Table

MAX_CPUS = 1024  # as of -smp
MAX_MEMORY = 1 << 46  # bytes, as of -m

_NEGOTIATION = "qmp_capabilities"
_ERROR_CLASSES = (
    "GenericError",
    "CommandNotFound",
    "DeviceNotActive",
    "DeviceNotFound",
    "KVMMissingCap",
)


def read_vocabulary(top: Table, name: str, directory: str) -> vocabulary.Vocabulary:
    """Return the vocabulary with a name, or from a file.

    Args:
        top: The scenario's file, for error messages.
        name: Name of the vocabulary, or the file.
        directory: Directory that the file is relative to.

    Raises:
        ScenarioError: There is no such vocabulary.
    """
    try:
        return vocabulary.load(name, directory)
    except SchemaError as error:
        raise top.error("schema", str(error)) from None
    except ValueError as error:  # a zero byte in the name
        raise top.error("schema", str(error)) from None
    except OSError as error:
        known = ", ".join(vocabulary.NAMED)
        raise top.error(
            "schema",
            f"{error.filename}: {error.strerror}; it must be one of {known}, or a file",
        ) from None


def with_version(top: Table, found: vocabulary.Vocabulary) -> vocabulary.Vocabulary:
    """Return a vocabulary with the version that the key `version` sets, if it is there.

    Raises:
        ScenarioError: The version is malformed, or a guest agent is given one.
    """
    version = top.string("version")
    if version is not None:
        if found.version is None:
            raise top.error("version", "the guest agent sends no greeting; leave the key out")
        if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}", version):
            raise top.error("version", f"'{version}' is not a version such as 7.2.0")
        found = found._replace(version=version)
    return found


class Reader:
    """Turns tables into the parts of a scenario, and checks them against a schema.

    Every method reads one table, refuses keys that it does not know, and raises `ScenarioError`
    for values that the schema does not allow.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def machine(self, table: Table, standard: MachineState) -> MachineState:
        """Return the machine's initial state; `standard` has what the table does not set."""
        uuid = table.string("uuid")
        try:
            uuid = uuid and parse_uuid(uuid)
        except OptionError as error:
            raise table.error("uuid", f"{shown(uuid)}: {error}") from None
        migration, unplug = table.seconds("migration-time"), table.seconds("unplug-time")
        powerdown = table.seconds("powerdown-time")
        made = MachineState(
            status=self._status(table) or standard.status,
            cpus=table.integer("cpus", 1, MAX_CPUS) or standard.cpus,
            memory=table.integer("memory", 1, MAX_MEMORY) or standard.memory,
            name=table.string("name") or standard.name,
            uuid=uuid or standard.uuid,
            migration_peer=table.boolean("migration-peer", standard=standard.migration_peer),
            migration_time=standard.migration_time if migration is None else migration,
            unplug_time=standard.unplug_time if unplug is None else unplug,
            powerdown_time=standard.powerdown_time if powerdown is None else powerdown,
            images=table.boolean("images", standard=standard.images),
            any_device=table.boolean("any-device", standard=standard.any_device),
        )
        table.done()
        return made

    def setup(self, table: Table) -> tuple[str, dict[str, Any]]:
        """Return a command to execute before the first client connects, and its arguments."""
        command = self._command(table)
        arguments = table.object("arguments") or {}
        table.done()
        try:
            return command.name, command.validate(arguments)
        except ValueError as error:
            raise table.error("arguments", str(error)) from None

    def reply(self, table: Table) -> Reply:
        """Return a scripted reply."""
        command = self._command(table)
        made = Reply(
            command.name,
            self._pattern(table, command),
            table.integer("times", 1),
            result=self._result(table, command),
            returns="return" in table,
            error=self._error(table),
            delay=self._delay(table, command),
            before=[self.event(one) for one in table.tables("before")],
            events=[self.event(one) for one in table.tables("events")],
            status=self._status(table),
            shutdown=self._shutdown(table),
        )
        table.done()
        if command.name == _NEGOTIATION and made.error is not None and made.events:
            raise table.error("events", "no event follows a negotiation that is refused")
        return made

    def event(self, table: Table) -> ScriptedEvent:
        """Return a scripted event."""
        name = table.required("event")
        declared = self._schema.events.get(name)
        if declared is None:
            raise table.error("event", unknown("event", name, self._schema.events))
        made = ScriptedEvent(name, table.object("data"), table.seconds("after") or 0.0)
        table.done()
        try:
            declared.validate(made.data)
        except ResultError as error:
            raise table.error("data", str(error)) from None
        return made

    def expectation(self, table: Table) -> Expectation:
        """Return an expected command."""
        command = self._command(table)
        pattern = self._pattern(table, command)
        least, most = _count(table)
        table.done()
        return Expectation(command.name, pattern, least, most)

    def fault(self, table: Table) -> Spec:
        """Return a fault; its key `name` is `NAME` or `NAME:COMMAND`."""
        from qmpserver.standin import faults  # most scenarios have none

        name, _, where = table.required("name").partition(":")
        if name not in faults.FAULTS:
            raise table.error("name", unknown("fault", name, faults.FAULTS))
        if faults.FAULTS[name].needs_events and not self._schema.events:
            raise table.error("name", f"{name} sends events, and the schema has none")
        where = table.string("where") or where
        known = {**self._schema.commands, **self._schema.events}
        if where and where not in known:
            raise table.error("where", unknown("command or event", where, known))
        made = faults.Spec(name, where or None, table.integer("times", 1), table.seconds("seconds"))
        table.done()
        return made

    def _command(self, table: Table) -> Command:
        name = table.required("command")
        command = self._schema.commands.get(name)
        if command is None:
            raise table.error("command", unknown("command", name, self._schema.commands))
        return command

    def _pattern(self, table: Table, command: Command) -> dict[str, Any] | None:
        """Return arguments to compare with: the values may be patterns, the names may not."""
        arguments = table.object("arguments")
        if arguments is None:
            return None
        taken = command.arguments
        if command.gen and not taken.branches:
            names = [member.name for member in taken.members]
            for name in arguments:
                if name not in (*names, MORE):
                    raise table.error(f"arguments.{name}", unknown("argument", name, names))
        try:
            check_patterns(arguments)
        except PatternError as error:
            raise table.error("arguments", str(error)) from None
        return arguments

    def _result(self, table: Table, command: Command) -> object:
        result = table.json("return")
        if result is not None:
            try:
                command.validate_result(result)
            except ResultError as error:
                raise table.error("return", str(error)) from None
        return result

    def _error(self, table: Table) -> tuple[str, str] | None:
        desc, error_class = table.string("error"), table.string("class")
        if error_class is not None:
            if desc is None:
                raise table.error("class", "it needs a key 'error' with the description")
            if error_class not in _ERROR_CLASSES:
                raise table.error("class", unknown("error class", error_class, _ERROR_CLASSES))
        if desc is None:
            return None
        if "return" in table:
            raise table.error("error", "a reply has either 'error' or 'return', not both")
        return desc, error_class or "GenericError"

    def _delay(self, table: Table, command: Command) -> float:
        delay = table.seconds("delay") or 0.0
        if delay and command.allow_oob:
            message = f"{command.name} can be executed out of band and must not be delayed"
            raise table.error("delay", message)
        return delay

    def _status(self, table: Table) -> str | None:
        status = table.string("status")
        if status is not None:
            known = _run_states(self._schema)
            if status not in known:
                raise table.error("status", unknown("run state", status, known))
        return status

    def _shutdown(self, table: Table) -> str | None:
        reason = table.string("shutdown")
        event = self._schema.events.get("SHUTDOWN")
        known = _enumerated(event.data, "reason") if event is not None else []
        if reason is not None and known and reason not in known:
            raise table.error("shutdown", unknown("reason", reason, known))
        return reason


def _run_states(schema: Schema) -> list[str]:
    """Return the run states that `query-status` can return."""
    query = schema.commands.get("query-status")
    returns = query.returns if query is not None else None
    return _enumerated(returns, "status")


def _enumerated(type_: Type | None, member: str) -> list[str]:
    """Return the values of an enumeration that is a member of an object."""
    members = type_.members if isinstance(type_, ObjectType) else []
    kinds = [one.type for one in members if one.name == member]
    return [one.name for kind in kinds if isinstance(kind, EnumType) for one in kind.values]


def _count(table: Table) -> tuple[int, int | None]:
    """Return how often a command is expected: at least and at most."""
    times = table.get("times")
    if times is None:
        return 1, None
    if isinstance(times, int) and not isinstance(times, bool) and times >= 0:
        return times, times
    if isinstance(times, str) and (found := re.fullmatch(r"([0-9]{0,9})\.\.([0-9]{0,9})", times)):
        least, most = (int(bound) if bound else None for bound in found.groups())
        if (least, most) != (None, None) and (most is None or (least or 0) <= most):
            return least or 0, most
    message = f'{shown(times)} is not a count; it must be a number, "1..", "..3" or "1..3"'
    raise table.error("times", message)
