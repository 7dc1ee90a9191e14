"""What a shell completes: addresses, and commands and arguments by the schema of the server."""

from __future__ import annotations

import asyncio
import contextlib
import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import UsageError
from qmpserver.tools.introspection import Schema, as_tree

if TYPE_CHECKING:
    import argparse

PATIENCE_S = 1.0  # whoever presses a key does not want to wait
DEPTH = 4


def _schema(args: argparse.Namespace) -> Schema:
    """Ask the server; where it does not answer there is nothing to complete."""
    from qmpserver.tools.address import server
    from qmpserver.tools.client import connected, execute

    async def ask() -> Any:
        address = server(args)
        async with connected(address, PATIENCE_S) as client:
            return await execute(client, address, "query-qmp-schema", patience=PATIENCE_S)

    return Schema(asyncio.run(ask()))


def complete_addresses(prefix: str, **_: object) -> list[str]:
    """Return addresses that begin so: sockets, and directories on the way to them."""
    kind, _colon, path = prefix.partition(":")
    if kind != "unix":
        return [word for word in ("unix:", "tcp:") if word.startswith(prefix)]
    found = map(Path, glob.glob(glob.escape(path) + "*"))
    return [
        f"unix:{p}/" if p.is_dir() else f"unix:{p}" for p in found if p.is_dir() or p.is_socket()
    ]


def complete_commands(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return commands that begin so, with their arguments."""
    return _names(prefix, parsed_args, "command")


def complete_all(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return commands and events that begin so, with their arguments and data."""
    return _names(prefix, parsed_args, "command", "event")


def _names(prefix: str, args: argparse.Namespace, *metas: str) -> dict[str, str]:
    schema = _schema(args)
    names = [name for meta in metas for name in schema.names(meta)]
    return {name: schema.summary(name) for name in names if name.startswith(prefix)}


def complete_arguments(prefix: str, parsed_args: argparse.Namespace, **_: object) -> dict[str, str]:
    """Return arguments, or values of one, that begin so, with their types."""
    schema = _schema(parsed_args)
    found = {prefix: ""}
    for _step in range(DEPTH):  # where there is one way only, go it
        (way,) = found
        found = _arguments(schema, way, parsed_args)
        if len(found) != 1 or not next(iter(found)).endswith("."):
            break
    return found


def _arguments(schema: Schema, prefix: str, args: argparse.Namespace) -> dict[str, str]:
    given: dict[str, Any] = {}
    with contextlib.suppress(UsageError):
        given = as_tree(args.arguments or ())
    key, equals, _value = prefix.partition("=")
    *above, last = key.split(".")
    types = schema.below(args.command, above, given)
    if equals:
        values = schema.values(types[last]) if last in types else []
        words = {f"{key}={value}": "" for value in values}
    else:
        for name in above:
            given = given.get(name, {}) if isinstance(given, dict) else {}
        words = {
            ".".join([*above, name]) + ending: schema.describe(type_name)
            for name, type_name in types.items()
            for ending in sorted(schema.endings(type_name))
            if ending == "." or name not in given or schema.is_list(type_name)
        }
    return {word: what for word, what in words.items() if word.startswith(prefix)}
