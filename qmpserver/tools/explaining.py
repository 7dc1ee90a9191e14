"""Commands, events and types of a schema, explained in a person's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qapi import Command
from qmpserver.qapi.model import (
    ANY,
    EMPTY,
    AlternateType,
    ArrayType,
    EnumType,
    ObjectType,
    QType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.qapi import Event
    from qmpserver.qapi.model import Type


def describe(type_: Type, above: tuple[Type, ...] = ()) -> str:
    """Return a type in a few words; `above` are the alternates that it is a part of."""
    if isinstance(type_, EnumType | QType):
        return " | ".join(value.name for value in type_.values)
    if isinstance(type_, ArrayType):
        return f"list of {describe(type_.element, above)}"
    if isinstance(type_, AlternateType):
        if type_ in above:  # a list of it is one of its branches
            return "the same"
        above = (*above, type_)
        return " or ".join(describe(branch.type, above) for branch in type_.branches.values())
    return "any value" if type_.wire == ANY.wire else type_.wire


def summarize(entity: Command | Event) -> str:
    """Return the arguments of a command, or the data of an event, in one line.

    Optional ones are in brackets.
    """
    members = _data(entity).members
    return " ".join(f"[{m.name}=]" if m.optional else f"{m.name}=" for m in members)


def explain(entity: Command | Event) -> Iterator[str]:
    """Return the lines that explain a command or an event."""
    notes = list(map(str, entity.features))
    if isinstance(entity, Command) and entity.allow_oob:
        notes.append("can be executed out of band")
    yield f"{entity.kind} {entity.name}" + (f"  ({', '.join(notes)})" if notes else "")
    data = "arguments" if isinstance(entity, Command) else "data"
    lines = list(_members(_data(entity), 1, ()))
    yield f"{data}:" if lines else f"no {data}"
    yield from lines
    if isinstance(entity, Command):
        returns = entity.returns or EMPTY
        lines = list(_objects(returns, 1, ()))
        if lines or not isinstance(returns, ObjectType):
            yield f"returns: {describe(returns)}"
            yield from lines


def _data(entity: Command | Event) -> ObjectType:
    return entity.arguments if isinstance(entity, Command) else entity.data


def _objects(type_: Type, depth: int, above: tuple[Type, ...]) -> Iterator[str]:
    """Explain the objects in a type."""
    if isinstance(type_, ObjectType):
        yield from _members(type_, depth, above)
    elif isinstance(type_, ArrayType):
        yield from _objects(type_.element, depth, above)
    elif isinstance(type_, AlternateType) and type_ not in above:
        for branch in type_.branches.values():
            yield from _objects(branch.type, depth, (*above, type_))


def _members(type_: ObjectType, depth: int, above: tuple[Type, ...]) -> Iterator[str]:
    indent = "  " * depth
    if type_ in above:
        yield f"{indent}(as above)"
        return
    above = (*above, type_)
    for member in type_.members:
        optional = "  (optional)" if member.optional else ""
        deprecated = "  (deprecated)" if "deprecated" in member.features else ""
        yield f"{indent}{member.name}: {describe(member.type)}{optional}{deprecated}"
        yield from _objects(member.type, depth + 1, above)
    for case, branch in type_.branches.items():
        lines = list(_objects(branch.type, depth + 1, above))
        if lines and type_.tag:
            yield f"{indent}where {type_.tag.name} is {case}:"
            yield from lines
