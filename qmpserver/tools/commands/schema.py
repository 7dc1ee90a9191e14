"""Explain a command or event of a server: its arguments, their types, and what it returns.

  qmpctl --qmp unix:/tmp/q.sock schema set-vcpu-dirty-limit

Without a name all commands are listed, with their arguments; [optional=] ones are in brackets.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemu.qmp import ExecuteError

from qmpserver.tools.address import ServerAddress, add_qmp, server
from qmpserver.tools.client import GREETING_S, connected, execute
from qmpserver.tools.completion import complete_all
from qmpserver.tools.errors import QmpctlError, UsageError, sensible
from qmpserver.tools.introspection import Schema

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    name = parser.add_argument("name", nargs="?", metavar="NAME", help="of a command or event")
    name.completer = complete_all  # type: ignore[attr-defined]
    parser.add_argument("--events", action="store_true", help="list events instead of commands")


def run(args: argparse.Namespace) -> int:
    """Explain."""
    schema = asyncio.run(_schema(server(args)))
    if args.name is None:
        for name in schema.names("event" if args.events else "command"):
            print(f"{name} {schema.summary(name)}".rstrip())
        return 0
    if schema.entry(args.name) is None:
        raise UsageError(f"the server has no command or event '{args.name}'")
    print("\n".join(schema.explain(args.name)))
    return 0


async def _schema(address: ServerAddress) -> Schema:
    async with connected(address) as client:
        try:
            entries = await execute(client, address, "query-qmp-schema", patience=GREETING_S)
        except ExecuteError as error:
            raise QmpctlError(f"{error.error_class}: {error}") from None
        with sensible(address, "query-qmp-schema"):
            return Schema(entries)
