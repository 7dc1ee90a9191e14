"""Hints at near misses: the command, event, argument or value that a person may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.model import ArrayType, EnumType, QType
from qmpserver.tools.completion import parts_of, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpserver.qapi import Schema
    from qmpserver.qapi.model import Type
    from qmpserver.tools.errors import RefusedError

# Commands that take arguments which their schema does not have.
_OPEN = ("device_add",)


def meant(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name, empty if no known one is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def hints(
    error: RefusedError, schema: Schema, command: str, arguments: dict[str, Any]
) -> Iterator[str]:
    """Yield lines that tell why a server may have refused a command.

    Unknown arguments without a near name are told if the server calls another one missing.
    """
    declared = schema.commands.get(command)
    if declared is None:
        if near := meant(command, schema.commands):
            yield f"unknown command '{command}'{near}"
        return
    if not error.desc.startswith(("Parameter", "Invalid parameter")):
        return
    tell_all = "is missing" in error.desc and command not in _OPEN
    for kind, place, near in unknown(arguments, declared.arguments):
        if near or (tell_all and kind == "argument"):
            yield f"unknown {kind} '{place}'{near}"


def unknown(given: Any, type_: Type) -> Iterator[tuple[str, str, str]]:
    """Yield the arguments and values that a type does not have.

    Yields:
        `argument` or `value`; its place; and the end of an error message, as `meant` returns it,
        with the whole place of the one that may be meant.
    """
    for kind, place, wrong, known in _unknown(given, type_, ""):
        above = place[: len(place) - len(wrong)]
        near = difflib.get_close_matches(wrong, known, 1)
        yield kind, place, f"; did you mean '{above}{near[0]}'?" if near else ""


def _unknown(given: Any, type_: Type, key: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield the arguments and values that a type does not have: kind, place, text, known ones."""
    if isinstance(given, list) and isinstance(type_, ArrayType):
        for index, value in enumerate(given):
            yield from _unknown(value, type_.element, f"{key}.{index}")
    elif isinstance(given, dict):
        parts = parts_of(type_, given)
        for name, value in given.items():
            place = f"{key}.{name}" if key else name
            if name in parts:
                yield from _unknown(value, parts[name], place)
            elif parts:
                yield "argument", place, name, list(parts)
    elif isinstance(given, str) and isinstance(type_, EnumType | QType):
        values = values_of(type_)
        if given not in values:
            yield "value", f"{key}={given}", given, values
