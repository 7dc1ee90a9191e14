"""Values of QAPI types: the smallest one, and existing ones fitted to a type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qapi.model import AlternateType, ArrayType, EnumType, ObjectType, QType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.qapi.model import Type

_MAX_NESTING = 100  # each level takes some frames of Python's stack

_PLAIN: dict[str, object] = {
    "string": "",
    "number": 0,
    "int": 0,
    "boolean": False,
    "null": None,
    "value": "",
}


class _EndlessError(ValueError):
    """A value of the type would contain another value of the type without end."""

    def __init__(self) -> None:
        super().__init__("a value of its type would contain itself")


def smallest(type_: Type) -> object:
    """Return the smallest value of a type; the same one every time.

    It has no optional members, empty arrays, and the first value of each enumeration.

    Raises:
        ValueError: The type has no value: its enumeration is empty, or it contains itself; or the
            type is nested too deeply.
    """
    return _value(type_, ())


def _value(type_: Type, outer: tuple[Type, ...]) -> object:
    if type_ in outer:
        raise _EndlessError
    if len(outer) >= _MAX_NESTING:
        raise ValueError("its type is nested too deeply")
    inner = (*outer, type_)
    if isinstance(type_, ArrayType):
        return []
    if isinstance(type_, EnumType | QType):
        if not type_.values:
            raise ValueError(f"{type_.describe()} has no value")
        return type_.values[0].name
    if isinstance(type_, AlternateType):
        return _first((branch.type for branch in type_.branches.values()), inner)
    if isinstance(type_, ObjectType):
        return _object(type_, inner)
    return _PLAIN[type_.wire]


def _object(type_: ObjectType, inner: tuple[Type, ...]) -> dict[str, object]:
    made = {one.name: _value(one.type, inner) for one in type_.members if not one.optional}
    if type_.tag is None:
        return made
    for case, branch in type_.branches.items():
        try:
            more = _value(branch.type, inner)
        except _EndlessError:
            continue
        assert isinstance(more, dict)
        return {**made, type_.tag.name: case, **more}
    raise _EndlessError


def _first(types: Iterable[Type], outer: tuple[Type, ...]) -> object:
    for one in sorted(types, key=lambda type_: type_.wire == "object"):
        try:
            return _value(one, outer)
        except _EndlessError:
            pass
    raise _EndlessError


def fitted(value: object, type_: Type) -> object:
    """Return a value with the members of a type, so that one handler serves many releases.

    Members that the type does not have are dropped; missing ones get their smallest value. An item
    of an array is dropped if it is, or is about, a value that its enumeration does not have.

    Raises:
        ValueError: A missing member has no smallest value.
    """
    if isinstance(type_, ArrayType) and isinstance(value, list):
        return [fitted(item, type_.element) for item in value if _is_known(item, type_.element)]
    if not isinstance(type_, ObjectType):
        return value
    if not isinstance(value, dict):
        return smallest(type_) if value is None else value
    made: dict[str, object] = {}
    while True:
        for member in type_.members:
            if member.name in value:
                made[member.name] = fitted(value[member.name], member.type)
            elif not member.optional:
                made[member.name] = smallest(member.type)
        if type_.tag is None:
            return made
        branch = type_.branches.get(str(made[type_.tag.name]))
        if branch is None or not isinstance(branch.type, ObjectType):
            return made
        type_ = branch.type


def _is_known(item: object, type_: Type) -> bool:
    if isinstance(type_, EnumType):
        return item in {one.name for one in type_.values}
    if isinstance(type_, ObjectType) and isinstance(item, dict):
        required = (one for one in type_.members if not one.optional and one.name in item)
        return all(_is_known(item[one.name], one.type) for one in required)
    return True
