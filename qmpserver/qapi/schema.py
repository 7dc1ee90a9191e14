"""The schema as a whole, as its users see it."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.doc import Doc
from qmpserver.qapi.interface import Command, Event, Named
from qmpserver.qapi.introspect import introspect
from qmpserver.qapi.introspected import entities
from qmpserver.qapi.resolve import resolve

if TYPE_CHECKING:
    from qmpserver.qapi.model import AlternateType, EnumType, ObjectType


class Schema:
    """A loaded schema: `commands`, `events` and `types` by name, in the order of the text.

    `sequence` holds all of them and the free-form documentation between them.  What an ``if``
    switches off is in none of these.  It is read-only once loaded: any thread may use it.
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
            elif not isinstance(entry, Doc):
                self.types[entry.name] = entry

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], conditions: Iterable[str] | None = frozenset()
    ) -> "Schema":
        """Parse and check the schema in file `path`; `conditions` are those that hold in ``if``.

        With None for `conditions`, nothing is left out for its ``if``.
        Raises SchemaError: ``file:line: message``.
        """
        return cls(resolve(os.fspath(path), None if conditions is None else frozenset(conditions)))

    @classmethod
    def from_introspection(cls, infos: list[dict[str, Any]]) -> "Schema":
        """Make the schema that `infos` describe, as ``query-qmp-schema`` returned them.

        It has commands and events; types have lost their names, so `types` is empty.
        Raises SchemaError: they describe none.
        """
        schema = cls(list(entities(infos)))
        schema._introspection = infos
        return schema

    def introspect(self) -> list[dict[str, object]]:
        """Return what query-qmp-schema returns: one shared value, not to be changed."""
        if self._introspection is None:
            self._introspection = introspect(self.commands.values(), self.events.values())
        return self._introspection
