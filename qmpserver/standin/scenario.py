"""A scenario: everything that a stand-in does, read from TOML, a table, a transcript or an option.

README.md describes the format. All errors are found while a scenario is read, before a client
connects.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from qmpserver.files import read_text
from qmpserver.releases import NEWEST, Release
from qmpserver.standin import option, vocabulary
from qmpserver.standin.parts import Expectation, MachineState, Reply, ScenarioError, ScriptedEvent
from qmpserver.standin.reader import Reader, read_vocabulary, with_version
from qmpserver.standin.table import Table
from qmpserver.standin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qmpserver.qapi import Schema
    from qmpserver.standin.faults import Spec

# Names of the scenario that scripts nothing, in place of a file.
EMPTY = ("default", "none")

_TOO_DEEP = "values are nested too deeply"


class _UnreadableError(ScenarioError):
    """A file that cannot be read, or is not text."""


class Scenario(NamedTuple):
    """Everything that a stand-in does.

    Attributes:
        schema: The commands and events.
        version: Version in the greeting; None for the guest agent, which sends no greeting.
        machine: The machine's initial state.
        setup: Commands executed before the first client connects, with their arguments.
        early: Events sent before the greeting.
        replies: Scripted replies; the first one that fits and is not used up answers.
        events: Events sent after the first client's negotiation.
        expected: Commands that clients must send.
        ordered: Whether the expected commands must come in the given order.
        strict: Whether a command that the schema refuses is a failure.
        faults: Faults to inject.
        log: File that the conversation is written to, as a transcript; None for no log.
        release: Release whose words and manners the stand-in has.
    """

    schema: Schema
    version: str | None
    machine: MachineState = MachineState()
    setup: Sequence[tuple[str, dict[str, Any]]] = ()
    early: Sequence[ScriptedEvent] = ()
    replies: Sequence[Reply] = ()
    events: Sequence[ScriptedEvent] = ()
    expected: Sequence[Expectation] = ()
    ordered: bool = False
    strict: bool = False
    faults: Sequence[Spec] = ()
    log: str | None = None
    release: Release = NEWEST

    @classmethod
    def load(cls, name: str, schema: str | None = None) -> Self:
        """Read a scenario's file.

        Args:
            name: The file, TOML or a transcript; `default` and `none` are an empty scenario.
            schema: Name of the vocabulary, in place of the one that the file names.

        Raises:
            ScenarioError: The file cannot be read, or is not a valid scenario.
        """
        if name in EMPTY:
            return cls.read({}, schema=schema)
        return cls._load(name, _override(name, schema), set())

    @classmethod
    def _load(cls, name: str, given: Vocabulary | None, files: set[str]) -> Self:
        """Read a file as `load` does.

        Args:
            name: The file.
            given: The vocabulary, in place of the one that the file names.
            files: The files that were read so far; this one is added.
        """
        import tomllib  # these two are for files only

        from qmpserver.standin import recorded

        files.add(_identity(name))
        try:
            text = read_text(name)
        except UnicodeDecodeError:
            raise _UnreadableError(f"{name}: text is not UTF-8") from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise _UnreadableError(f"{name}: {getattr(error, 'strerror', error)}") from None
        try:
            if recorded.is_transcript(text):
                found, early, replies = recorded.read(name, text, given)
                return cls(
                    found.schema,
                    found.version,
                    early=early,
                    replies=replies,
                    release=found.release,
                )
            table = tomllib.loads(text)
        except RecursionError:
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None
        except ValueError as error:  # also an integer of thousands of digits
            raise ScenarioError(f"{name}: {error}") from None
        try:
            return cls._read(Table(name, "", table), os.path.dirname(name), given, files)
        except RecursionError:
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None

    @classmethod
    def read(
        cls,
        table: Mapping[str, Any],
        name: str = "scenario",
        directory: str | os.PathLike[str] = "",
        schema: str | None = None,
    ) -> Self:
        """Read a scenario from the tables of a TOML file.

        Args:
            table: Keys and values as in the file.
            name: Name of the scenario in error messages.
            directory: Directory that files named in the table are relative to.
            schema: Name of the vocabulary, in place of the one that the table names.

        Raises:
            ScenarioError: The table is not a valid scenario.
        """
        try:
            given = _override(name, schema)
            return cls._read(Table(name, "", table), os.fspath(directory), given, set())
        except RecursionError:
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None

    @classmethod
    def _read(cls, top: Table, directory: str, given: Vocabulary | None, files: set[str]) -> Self:
        named, found = top.string("schema"), given
        if found is None and named:
            found = read_vocabulary(top, named, directory)
        included: list[Self] = []
        for file in top.strings("include"):
            if not file:
                raise top.error("include", "the file has no name")
            path = os.path.join(directory, file)
            if _identity(path) in files:
                continue
            try:
                more = cls._load(path, found, files)
            except _UnreadableError as error:
                raise top.error("include", str(error)) from None
            found = found or Vocabulary(more.schema, more.version, more.release)
            included.append(more)
        found = with_version(top, found or vocabulary.load(vocabulary.DEFAULT))
        reader = Reader(found.schema)
        own = cls(
            found.schema,
            found.version,
            machine=reader.machine(top.table("machine"), _machine(included)),
            setup=[reader.setup(one) for one in top.tables("setup")],
            replies=[reader.reply(one) for one in top.tables("on")],
            events=[reader.event(one) for one in top.tables("event")],
            expected=[reader.expectation(one) for one in top.tables("expect")],
            ordered=top.boolean("ordered"),
            strict=top.boolean("strict"),
            faults=[reader.fault(one) for one in top.tables("fault", shorthand="name")],
            log=top.string("log"),
            release=found.release,
        )
        top.done()
        return own._including(included)

    def _including(self, included: Sequence[Self]) -> Self:
        """Return the scenario with the parts of others after its own, their setup before it."""
        every = [self, *included]
        return self._replace(
            setup=[one for part in (*included, self) for one in part.setup],
            early=[one for part in every for one in part.early],
            replies=[one for part in every for one in part.replies],
            events=[one for part in every for one in part.events],
            expected=[one for part in every for one in part.expected],
            ordered=any(part.ordered for part in every),
            strict=any(part.strict for part in every),
            faults=[one for part in every for one in part.faults],
            log=next((part.log for part in every if part.log is not None), None),
        )

    @classmethod
    def from_option(cls, text: str) -> Self:
        """Read the scenario that the value of `-fake` describes.

        Args:
            text: `FILE[,schema=NAME][,version=X.Y.Z][,fault=NAME]...[,log=FILE]`.

        Raises:
            ScenarioError: The value is malformed, or the scenario is not valid.
        """
        given = option.parse(text)
        file = EMPTY[0] if given.file is None else given.file
        made = cls.load(file, given.schema).with_faults(given.faults)
        if given.version is not None:
            made = made.with_version(given.version)
        if given.log is None:
            return made
        if _identity(given.log) == _identity(file):
            raise ScenarioError(f"log: {given.log} is the scenario's own file")
        return made._replace(log=given.log)

    def with_faults(self, texts: Iterable[str]) -> Self:
        """Return the scenario with more faults, each `NAME` or `NAME:COMMAND`.

        Raises:
            ScenarioError: There is no such fault or command.
        """
        reader = Reader(self.schema)
        more = [reader.fault(Table("fault", "", {"name": text})) for text in texts]
        return self._replace(faults=[*self.faults, *more])

    def with_version(self, version: str) -> Self:
        """Return the scenario with another version in its greeting, such as `9.1.0`.

        Raises:
            ScenarioError: It is not a version, or the scenario is of a guest agent.
        """
        top = Table("option", "", {"version": version})
        found = with_version(top, Vocabulary(self.schema, self.version, self.release))
        return self._replace(version=found.version)

    def on_machine(self, changes: Mapping[str, Any]) -> Self:
        """Return the scenario with attributes of its `MachineState` replaced."""
        return self._replace(machine=self.machine._replace(**changes))


def _machine(included: Sequence[Scenario]) -> MachineState:
    """Return the initial state that included scenarios set, the first one that sets a part."""
    standard = MachineState()._asdict()
    changes: dict[str, Any] = {}
    for one in reversed(included):
        changes |= {k: v for k, v in one.machine._asdict().items() if v != standard[k]}
    return MachineState(**{**standard, **changes})


def _identity(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a zero byte: it cannot be read either
        return path


def _override(name: str, schema: str | None) -> Vocabulary | None:
    """Return the vocabulary of the option `schema`; `name` is the scenario's."""
    return read_vocabulary(Table(name, "", {}), schema, "") if schema else None
