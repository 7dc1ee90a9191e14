"""The schema of an older release, as far as a newer schema goes.

The older one comes from introspection, which has neither the widths of integers nor the names of
alternates. Both are taken from the newer schema, for members that it has at the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.introspected import entities
from qmpserver.qapi.model import AlternateType, ArrayType, BuiltinType, ObjectType
from qmpserver.qapi.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.qapi.doc import Doc
    from qmpserver.qapi.interface import Named
    from qmpserver.qapi.model import Member, Type

_DOWNSTREAM = "__"


def older(newer: Schema, infos: list[dict[str, Any]]) -> Schema:
    """Return the commands and events that both releases have, as the older one declares them.

    Commands and events of the newer schema whose names begin with `__` are no release's, and stay.

    Args:
        newer: The newer schema.
        infos: The older release's reply to `query-qmp-schema`.

    Raises:
        SchemaError: The description is invalid.
    """
    named: dict[str, Command | Event] = {**newer.commands, **newer.events}
    grafts = _Grafts()
    kept: list[Doc | Named] = []
    for entity in entities(infos):
        ours = named.get(entity.name)
        if isinstance(entity, Command) and isinstance(ours, Command):
            entity.success_response = ours.success_response
            grafts.members(entity.arguments, ours.arguments)
            if entity.returns is not None and ours.returns is not None:
                entity.returns = grafts.type(entity.returns, ours.returns)
        elif isinstance(entity, Event) and isinstance(ours, Event):
            grafts.members(entity.data, ours.data)
        else:
            continue
        kept.append(entity)
    for name, one in named.items():
        if name.startswith(_DOWNSTREAM):
            kept.append(one)
    return Schema(kept)


class _Grafts:
    """Gives types of the older schema the widths and names that the newer one has."""

    def __init__(self) -> None:
        self._done: set[tuple[int, int]] = set()

    def type(self, old: Type, new: Type) -> Type:
        """Return the type to use in place of `old`."""
        if old is new or type(old) is not type(new):
            return old
        if isinstance(old, BuiltinType):
            return new if old.wire == new.wire else old
        if isinstance(old, ArrayType) and isinstance(new, ArrayType):
            return ArrayType(self.type(old.element, new.element))
        pair = (id(old), id(new))
        if pair in self._done:
            return old
        self._done.add(pair)
        if isinstance(old, ObjectType) and isinstance(new, ObjectType):
            self.members(old, new)
        elif isinstance(old, AlternateType) and isinstance(new, AlternateType):
            old.name = new.name
            for branch in old.branches.values():
                for other in new.branches.values():
                    if other.type.wire == branch.type.wire:
                        branch.type = self.type(branch.type, other.type)
        return old

    def members(self, old: ObjectType, new: ObjectType) -> None:
        """Go through the members and branches that both have."""
        ours = dict(_named(new))
        for name, member in _named(old):
            if name in ours:
                member.type = self.type(member.type, ours[name].type)
        for value, branch in old.branches.items():
            other = new.branches.get(value)
            if other is not None:
                branch.type = self.type(branch.type, other.type)


def _named(type_: ObjectType) -> Iterator[tuple[str, Member]]:
    return ((member.name, member) for member in type_.members)
