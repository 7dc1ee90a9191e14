"""What a shell completes: commands and arguments, by the schema of the server on the line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpserver.tools.introspection import Schema

if TYPE_CHECKING:
    import argparse

PATIENCE_S = 1.0  # whoever presses a key does not want to wait


def _schema(args: argparse.Namespace) -> Schema:
    """Ask the server; where it does not answer there is nothing to complete."""
    from qmpserver.tools.address import server
    from qmpserver.tools.client import connected, execute

    async def ask() -> Any:
        address = server(args)
        async with connected(address, PATIENCE_S) as client:
            return await execute(client, address, "query-qmp-schema", patience=PATIENCE_S)

    return Schema(asyncio.run(ask()))


def complete_commands(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return commands that begin so."""
    return [name for name in _schema(parsed_args).names("command") if name.startswith(prefix)]


def complete_arguments(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return arguments, or values of one, that begin so."""
    schema = _schema(parsed_args)
    key, equals, _value = prefix.partition("=")
    *above, last = key.split(".")
    members = schema.members(parsed_args.command, above)
    if equals:
        values = schema.values(members[last]) if last in members else []
        words = [f"{key}={value}" for value in values]
    else:
        given = {word.partition("=")[0] for word in parsed_args.arguments or ()}
        keys = {".".join([*above, name]): type_name for name, type_name in members.items()}
        words = [f"{name}=" for name in keys if name not in given]
        words += [f"{name}." for name, type_name in keys.items() if schema.is_object(type_name)]
    return [word for word in words if word.startswith(prefix)]
