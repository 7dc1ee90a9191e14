"""Explain a command or event of a server: its arguments, their types, and its result.

  qmpctl --qmp unix:/tmp/q.sock schema set-vcpu-dirty-limit

Without a name all commands are listed, with their arguments; [optional=] ones are in brackets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.tools.address import add_qmp, server
from qmpserver.tools.client import GREETING_S, Client
from qmpserver.tools.completion import complete_all
from qmpserver.tools.errors import UsageError, sensible
from qmpserver.tools.explaining import explain, summarize
from qmpserver.tools.hints import meant
from qmpserver.tools.introspection import fetch_schema

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from qmpserver.qapi import Command, Event


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    name = parser.add_argument("name", nargs="?", metavar="NAME", help="of a command or event")
    name.completer = complete_all  # type: ignore[attr-defined]
    parser.add_argument("--events", action="store_true", help="list events instead of commands")


def run(args: argparse.Namespace) -> int:
    """Explain a command or event, or list all."""
    address = server(args)
    with Client(address, reply_s=GREETING_S) as client:
        schema = fetch_schema(client)
    with sensible(address, "query-qmp-schema"):
        if args.name is None:
            lines = list(_listed(schema.events if args.events else schema.commands))
        elif entity := schema.commands.get(args.name) or schema.events.get(args.name):
            lines = list(explain(entity))
        else:
            near = meant(args.name, [*schema.commands, *schema.events])
            raise UsageError(f"the server has no command or event '{args.name}'{near}")
    if lines:
        print("\n".join(lines))
    return 0


def _listed(entities: Mapping[str, Command | Event]) -> Iterable[str]:
    return (f"{name} {summarize(one)}".rstrip() for name, one in sorted(entities.items()))
