"""Completions for a shell: commands, arguments and their values, by the schema of the server."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.model import (
    ANY,
    AlternateType,
    ArrayType,
    EnumType,
    ObjectType,
    QType,
)
from qmpserver.tools.address import address, server
from qmpserver.tools.arguments import as_tree
from qmpserver.tools.client import Client
from qmpserver.tools.errors import UsageError
from qmpserver.tools.explaining import describe, summarize
from qmpserver.tools.introspection import fetch_schema

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from qmpserver.qapi import Command, Event, Schema
    from qmpserver.qapi.model import Type
    from qmpserver.tools.address import ServerAddress

PATIENCE_S = 1.0  # a person waits for the answer
DEPTH = 4


def _schema(args: argparse.Namespace) -> Schema:
    """Ask the server; argcomplete takes an exception for no completions."""
    with Client(server(args), greeting_s=PATIENCE_S, reply_s=PATIENCE_S) as client:
        return fetch_schema(client)


def complete_commands(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return the commands that begin with `prefix`, with their arguments."""
    return _summaries(prefix, _schema(parsed_args).commands)


def complete_events(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return the events that begin with `prefix`, with their data."""
    return _summaries(prefix, _schema(parsed_args).events)


def complete_all(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return the commands and events that begin with `prefix`, with their arguments and data."""
    schema = _schema(parsed_args)
    return _summaries(prefix, schema.commands) | _summaries(prefix, schema.events)


def _summaries(prefix: str, entities: Mapping[str, Command | Event]) -> dict[str, str]:
    return {
        name: summarize(one) for name, one in sorted(entities.items()) if name.startswith(prefix)
    }


def complete_arguments(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return the arguments, or values of one, that begin with `prefix`, with their types."""
    command = _schema(parsed_args).commands.get(parsed_args.command)
    if command is None:
        return {}
    words = parsed_args.arguments or ()
    found = {prefix: ""}
    for _step in range(DEPTH):  # a single object is entered at once
        (only,) = found
        found = _completions(command.arguments, only, words)
        if len(found) != 1 or not next(iter(found)).endswith("."):
            break
    return found


def complete_capabilities(prefix: str, **_: object) -> list[str]:
    """Return the migration capabilities of the source that begin with `prefix`."""
    with Client(_first_address(), greeting_s=PATIENCE_S, reply_s=PATIENCE_S) as client:
        found = [one["capability"] for one in client.execute("query-migrate-capabilities")]
    return [name for name in found if name.startswith(prefix)]


def complete_parameters(prefix: str, **_: object) -> dict[str, str]:
    """Return the migration parameters of the source, or values of one, that begin with `prefix`."""
    with Client(_first_address(), greeting_s=PATIENCE_S, reply_s=PATIENCE_S) as client:
        command = fetch_schema(client).commands["migrate-set-parameters"]
    return _completions(command.arguments, prefix, ())


def complete_durations(prefix: str, **_: object) -> list[str]:
    """Return the units that a number can have."""
    return [f"{prefix}s", f"{prefix}ms"] if prefix[-1:].isdecimal() else []


def _first_address() -> ServerAddress:
    """Return the first server on the line: the source of a migration.

    The line is not parsed yet: argcomplete keeps no arguments before an option without its value.
    """
    words = os.environ["COMP_LINE"].split()
    return next(address(word) for word in words if word.startswith(("unix:", "tcp:")))


def _completions(type_: Type, prefix: str, words: Sequence[str]) -> dict[str, str]:
    """Return the completions of one step: as far as the next dot or equals sign."""
    given: Any = {}
    with contextlib.suppress(UsageError):
        given = as_tree(words)
    key, equals, _value = prefix.partition("=")
    *above, last = key.split(".")
    for name in above:
        type_ = parts_of(type_, given).get(name, ANY)
        given = given.get(name) if isinstance(given, dict) else None
    parts = parts_of(type_, given)
    if equals:
        found = {f"{key}={value}": "" for value in values_of(parts.get(last, ANY))}
    else:
        taken = given if isinstance(given, dict) else {}
        found = {
            ".".join([*above, name]) + ending: describe(part)
            for name, part in parts.items()
            for ending in sorted(_endings(part))
            if ending == "." or name not in taken or isinstance(part, ArrayType)
        }
    return {word: text for word, text in found.items() if word.startswith(prefix)}


def parts_of(type_: Type, given: object) -> dict[str, Type]:
    """Return the types of the parts that a value of a type can have, by name or number.

    `given` is the known part of the value. A union has the parts of all its branches unless its tag
    is given; a list has one element more than is given.
    """
    given = given if isinstance(given, dict) else {}
    parts: dict[str, Type] = {}
    branches: list[Type] = []
    if isinstance(type_, ArrayType):
        parts = {str(index): type_.element for index in range(len(given) + 1)}
    elif isinstance(type_, AlternateType):
        branches = [branch.type for branch in type_.branches.values()]
    elif isinstance(type_, ObjectType):
        parts = {member.name: member.type for member in type_.members}
        tag = given.get(type_.tag.name) if type_.tag else None
        branches = [b.type for case, b in type_.branches.items() if tag in (None, case)]
    for branch in branches:
        parts = parts_of(branch, given) | parts
    return parts


def values_of(type_: Type) -> list[str]:
    """Return all values of an enumeration or a boolean, or of a list's elements; of others none."""
    if isinstance(type_, EnumType | QType):
        return [value.name for value in type_.values]
    if isinstance(type_, ArrayType):
        return values_of(type_.element)
    if isinstance(type_, AlternateType):
        return [value for b in type_.branches.values() for value in values_of(b.type)]
    return {"boolean": ["true", "false"], "null": ["null"]}.get(type_.wire, [])


def _endings(type_: Type) -> set[str]:
    """Return how keys of a type end: in `=` if it takes a value, in `.` if it has parts."""
    if isinstance(type_, ArrayType):
        return _endings(type_.element)
    if isinstance(type_, AlternateType):
        return set().union(*(_endings(branch.type) for branch in type_.branches.values()))
    return {"."} if parts_of(type_, {}) else {"="}
