"""A loaded schema."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from qmpserver.files import read_bytes
from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.introspect import introspect
from qmpserver.qapi.introspected import entities
from qmpserver.qapi.model import AlternateType, EnumType, ObjectType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.qapi.doc import Doc
    from qmpserver.qapi.interface import Named


class Schema:
    """A loaded schema. It is read-only: any thread may use it.

    Definitions whose `if` does not hold are in none of the attributes.

    Attributes:
        commands: The commands by name, in the order of the text.
        events: The events by name, likewise.
        types: The types by name, likewise.
        sequence: All definitions, and the free-form documentation between them.
    """

    def __init__(self, sequence: list[Doc | Named]) -> None:
        self.sequence = sequence
        self.commands: dict[str, Command] = {}
        self.events: dict[str, Event] = {}
        self.types: dict[str, EnumType | ObjectType | AlternateType] = {}
        self._introspection: list[dict[str, object]] | None = None
        for entry in sequence:
            if isinstance(entry, Command):
                self.commands[entry.name] = entry
            elif isinstance(entry, Event):
                self.events[entry.name] = entry
            elif isinstance(entry, EnumType | ObjectType | AlternateType):
                self.types[entry.name] = entry

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        conditions: Iterable[str] | None = frozenset(),
        *,
        documented: bool = True,
    ) -> Schema:
        """Parse and check the schema in file `path`.

        Args:
            path: The schema's root file.
            conditions: The conditions that hold in `if`; None keeps all definitions.
            documented: Read documentation comments, and check them.

        Raises:
            SchemaError: The schema is invalid; the text is `file:line: message`.
        """
        from qmpserver.qapi.parser import parse  # a description needs no parser
        from qmpserver.qapi.resolve import resolve

        held = None if conditions is None else frozenset(conditions)
        return cls(resolve(parse(os.fspath(path), documented=documented), held))

    @classmethod
    def from_compiled(cls, path: str | os.PathLike[str]) -> Schema:
        """Return the schema in file `path`, which `python -m qmpserver.qapi compile` has written.

        It validates as the schema does that it was made from, but has no documentation, and its
        `types` is empty. Types are made when they are first needed.

        Raises:
            OSError: The file cannot be read.
        """
        return cls(list(entities(json.loads(read_bytes(path)), lazy=True)))

    @classmethod
    def from_introspection(cls, infos: list[dict[str, Any]], *, lazy: bool = False) -> Schema:
        """Return the schema that `infos`, a result of `query-qmp-schema`, describe.

        Its `types` is empty, since introspection has no names of types.

        Args:
            infos: The description.
            lazy: Make the types of a command or event when they are first needed. The description
                must be valid.

        Raises:
            SchemaError: The description is invalid.
        """
        schema = cls(list(entities(infos, lazy=lazy)))
        schema._introspection = infos
        return schema

    def introspect(self) -> list[dict[str, object]]:
        """Return the result of `query-qmp-schema`: one shared value, which must not be changed."""
        if self._introspection is None:
            self._introspection = introspect(self.commands.values(), self.events.values())
        return self._introspection
