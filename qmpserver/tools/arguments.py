"""Arguments of a command from the command line: `key=value` words, typed as the schema says.

What the schema does not know is of any type.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.model import (
    ANY,
    AlternateType,
    ArrayType,
    EnumType,
    ObjectType,
    QType,
)
from qmpserver.tools.errors import UsageError
from qmpserver.tools.explaining import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.qapi.model import Type

_BOOLEANS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
_INTEGER = re.compile("-?(0x[0-9a-fA-F]{1,40}|[0-9]{1,40})")  # the server knows its own range
_WANTED = {
    "number": "a number",
    "null": "null",
    "boolean": "true or false",
    "int": "an integer",
}


def read_arguments(words: Sequence[str], type_: Type) -> dict[str, Any]:
    """Return the arguments that `key=value` words give, of a command that takes `type_`.

    Where any type will do, a value that looks like JSON is JSON, others are strings. Members that
    the type does not have are passed on: the server refuses them in its own words.

    Raises:
        UsageError: A word is not `key=value`, or its value is of another type.
    """
    typed = _typed(as_tree(words), type_, "")
    assert isinstance(typed, dict)
    return typed


def _typed(given: Any, type_: Type, key: str) -> Any:
    """Return `given`, a node of the tree, as a value of `type_`; `key` is its place."""
    if isinstance(type_, AlternateType):
        return _alternate(given, type_, key)
    if isinstance(given, dict):
        return _object(given, type_, key)
    if isinstance(given, list):
        if isinstance(type_, ArrayType):
            return [_typed(value, type_.element, key) for value in given]
        if type_.wire != ANY.wire:
            raise UsageError(f"'{key}' is given more than once")
        return [_typed(value, ANY, key) for value in given]
    if isinstance(type_, ArrayType):
        value = _json(given)
        return value if isinstance(value, list) else [_typed(given, type_.element, key)]
    if isinstance(type_, ObjectType):
        value = _json(given)
        if not isinstance(value, dict):
            raise UsageError(f"'{key}' wants an object: {key}.NAME=VALUE or {key}={{JSON}}")
        return value
    return _scalar(given, type_.wire, key)


def _object(given: dict[str, Any], type_: Type, key: str) -> Any:
    """Return the value of a branch of the tree: an object, or a list with numbered elements."""
    any_will_do = type_.wire == ANY.wire
    numbered = bool(given) and all(name.isdecimal() for name in given)
    if isinstance(type_, ArrayType) or (any_will_do and numbered):
        return _array(given, type_.element if isinstance(type_, ArrayType) else ANY, key)
    if isinstance(type_, ObjectType):
        members = _members(type_, given)
    elif any_will_do:
        members = {}
    else:
        raise UsageError(f"'{key}' is no object: {describe(type_)} is wanted")
    dot = f"{key}." if key else ""
    return {name: _typed(v, members.get(name, ANY), dot + name) for name, v in given.items()}


def _members(type_: ObjectType, given: dict[str, Any]) -> dict[str, Type]:
    """Return the types of an object's members, those of the branch that is given too."""
    members = {member.name: member.type for member in type_.members}
    tag = given.get(type_.tag.name) if type_.tag else None
    branch = type_.branches.get(tag) if isinstance(tag, str) else None
    if branch and isinstance(branch.type, ObjectType):
        members |= _members(branch.type, given)
    return members


def _array(given: dict[str, Any], element: Type, key: str) -> list[Any]:
    if sorted(given, key=lambda n: (len(n), n)) != [str(i) for i in range(len(given))]:
        raise UsageError(f"'{key}' is a list: number its elements {key}.0, {key}.1 and so on")
    return [_typed(given[str(i)], element, f"{key}.{i}") for i in range(len(given))]


def _alternate(given: Any, type_: AlternateType, key: str) -> Any:
    """Take the branch that the value looks like, a string last."""
    shapes = (ObjectType, ArrayType) if isinstance(given, dict) else (ArrayType,)
    for branch in type_.branches.values():
        if isinstance(given, str):
            fits = _looks_like(given, branch.type)
        else:
            fits = isinstance(branch.type, shapes)
        if fits:
            return _typed(given, branch.type, key)
    return given if isinstance(given, str) else _typed(given, ANY, key)


def _looks_like(text: str, type_: Type) -> bool:
    """Return whether a text can be a value of a branch of an alternate other than a string."""
    if isinstance(type_, EnumType | QType):
        return text in [value.name for value in type_.values]
    value = _json(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "int": is_number and isinstance(value, int),
        "number": is_number,
        "boolean": text in _BOOLEANS,
        "null": text == "null",
    }.get(type_.wire, False)


def _scalar(text: str, wire: str, key: str) -> Any:
    if wire == "string":
        return text
    if wire == "boolean" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if wire in ("int", "number") and _INTEGER.fullmatch(text):
        return int(text, 16 if "x" in text else 10)
    value = _json(text)
    if wire == ANY.wire:
        return value
    fits = {
        "number": isinstance(value, float),
        "null": value is None,
        "boolean": False,
        "int": False,
    }
    if not fits[wire]:
        raise UsageError(f"'{key}={text}': {_WANTED[wire]} is wanted")
    return value


def as_tree(words: Sequence[str]) -> dict[str, Any]:
    """Return the tree of texts that `key=value` words give; dots in a key go down in it.

    Raises:
        UsageError: A word is not `key=value`, or contradicts another.
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageError(f"'{word}' is not key=value")
        if any("\ud800" <= char <= "\udfff" for char in word):
            raise UsageError(f"'{key}' is given bytes that are not UTF-8")
        _put(tree, key, value)
    return tree


def _put(tree: dict[str, Any], key: str, value: str) -> None:
    """Store a value under a dotted key; a key that is given again makes a list."""
    *above, last = key.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UsageError(f"'{key}' goes below '{name}', which has a value of its own")
    if isinstance(tree.get(last), dict):
        raise UsageError(f"'{key}' has both a value and something below it")
    if last in tree:
        before = tree[last]
        tree[last] = [*(before if isinstance(before, list) else [before]), value]
    else:
        tree[last] = value


def _json(text: str) -> Any:
    """Return the value of JSON text; other text, or JSON nested too deeply, stays text."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(text: str) -> None:
    raise ValueError(text)  # NaN and the like
