"""Strings of the command line as the values of a QAPI type, as in QEMU's keyval visitor.

Only the types of scalars are decided here. Members that are missing or unexpected, and values that
an enumeration lacks, are left to the schema's own check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_bool, parse_number, parse_size
from qmpserver.qapi.model import AlternateType, ArrayType, ObjectType

if TYPE_CHECKING:
    from qmpserver.qapi.model import Type


def typed(value: Any, type_: Type, name: str = "") -> Any:
    """Return a value whose scalars are strings as a value of a type.

    Args:
        value: A string, or an object or array of such values.
        type_: The type.
        name: The value's name in error messages.

    Raises:
        OptionError: A string stands for no value of its type; the message is QEMU's.
    """
    if isinstance(type_, AlternateType):
        return _alternate(value, type_, name)
    if isinstance(type_, ObjectType):
        return _object(value, type_, name) if isinstance(value, dict) else value
    if isinstance(type_, ArrayType):
        if not isinstance(value, list):
            return value
        return [typed(one, type_.element, f"{name}.{i}") for i, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    match type_.wire:
        case "boolean":
            return parse_bool(name, value)
        case "int":
            return _integer(name, value)
        case "number":
            return _number(name, value)
    return value


def _object(value: dict[str, Any], type_: ObjectType, name: str) -> dict[str, Any]:
    made = dict(value)
    while True:
        for member in type_.members:
            if member.name in made:
                where = f"{name}.{member.name}".removeprefix(".")
                made[member.name] = typed(made[member.name], member.type, where)
        branch = type_.branches.get(str(made.get(type_.tag.name))) if type_.tag else None
        if branch is None or not isinstance(branch.type, ObjectType):
            return made
        type_ = branch.type


def _alternate(value: Any, type_: AlternateType, name: str) -> Any:
    by_wire = {branch.type.wire: branch.type for branch in type_.branches.values()}
    if isinstance(value, dict | list):
        chosen = by_wire.get("object" if isinstance(value, dict) else "array")
        return value if chosen is None else typed(value, chosen, name)
    if "string" in by_wire:
        return value
    for wire in ("boolean", "int", "number"):
        if wire in by_wire:
            return typed(value, by_wire[wire], name)
    return value


def _integer(name: str, value: str) -> int:
    """Return an integer; also a size with a suffix, since introspection tells no difference."""
    try:
        number = parse_number(name, value)
    except OptionError:
        try:
            return parse_size(name, value)
        except OptionError:
            raise OptionError(f"Parameter '{name}' expects integer") from None
    return number - (1 << 64) if value.lstrip().startswith("-") else number


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise OptionError(f"Parameter '{name}' expects a number") from None
