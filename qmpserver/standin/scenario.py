"""A scenario: everything that a stand-in does, read from TOML, a table, a transcript or an option.

README.md describes the format. All errors are found while a scenario is read, before a client
connects.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qmpserver.files import read_text
from qmpserver.releases import NEWEST, Release
from qmpserver.standin import faults, option, recorded
from qmpserver.standin.parts import Expectation, MachineState, Reply, ScenarioError, ScriptedEvent
from qmpserver.standin.reader import Reader, read_vocabulary
from qmpserver.standin.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qmpserver.qapi import Schema

# Names of the scenario that scripts nothing, in place of a file.
EMPTY = ("default", "none")

_TOO_DEEP = "values are nested too deeply"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a stand-in does.

    Attributes:
        schema: The commands and events.
        version: Version in the greeting; None for the guest agent, which sends no greeting.
        machine: The machine's initial state.
        setup: Commands executed before the first client connects, with their arguments.
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
    machine: MachineState = field(default_factory=MachineState)
    setup: Sequence[tuple[str, dict[str, Any]]] = ()
    replies: Sequence[Reply] = ()
    events: Sequence[ScriptedEvent] = ()
    expected: Sequence[Expectation] = ()
    ordered: bool = False
    strict: bool = False
    faults: Sequence[faults.Spec] = ()
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
        path = Path(name)
        try:
            text = read_text(path)
        except UnicodeDecodeError:
            raise ScenarioError(f"{name}: text is not UTF-8") from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise ScenarioError(f"{name}: {getattr(error, 'strerror', error)}") from None
        try:
            if recorded.is_transcript(text):
                vocabulary, replies = recorded.read(name, text, schema)
                return cls(*vocabulary[:2], replies=replies, release=vocabulary.release)
            table = tomllib.loads(text)
        except RecursionError:
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None
        except ValueError as error:  # also an integer of thousands of digits
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
        """Read a scenario from the tables of a TOML file.

        Args:
            table: Keys and values as in the file.
            name: Name of the scenario in error messages.
            directory: Directory that the file named by `schema` in the table is relative to.
            schema: Name of the vocabulary, in place of the one that the table names.

        Raises:
            ScenarioError: The table is not a valid scenario.
        """
        try:
            return cls._read(Table(name, "", table), directory, schema)
        except RecursionError:
            raise ScenarioError(f"{name}: {_TOO_DEEP}") from None

    @classmethod
    def _read(cls, top: Table, directory: Path, schema: str | None) -> Self:
        vocabulary = read_vocabulary(top, directory, schema)
        reader = Reader(vocabulary.schema)
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
            release=vocabulary.release,
        )
        top.done()
        return made

    @classmethod
    def from_option(cls, text: str) -> Self:
        """Read the scenario that the value of `-fake` describes.

        Args:
            text: `FILE[,schema=NAME][,fault=NAME]...[,log=FILE]`.

        Raises:
            ScenarioError: The value is malformed, or the scenario is not valid.
        """
        given = option.parse(text)
        file = EMPTY[0] if given.file is None else given.file
        made = cls.load(file, given.schema).with_faults(given.faults)
        return made if given.log is None else replace(made, log=given.log)

    def with_faults(self, texts: Iterable[str]) -> Self:
        """Return the scenario with more faults, each `NAME` or `NAME:COMMAND`.

        Raises:
            ScenarioError: There is no such fault or command.
        """
        reader = Reader(self.schema)
        more = [reader.fault(Table("fault", "", {"name": text})) for text in texts]
        return replace(self, faults=[*self.faults, *more])

    def on_machine(self, changes: Mapping[str, Any]) -> Self:
        """Return the scenario with attributes of its `MachineState` replaced."""
        return replace(self, machine=replace(self.machine, **changes))
