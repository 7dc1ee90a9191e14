r"""Execute a command and print what it returns.

  qmpctl --qmp unix:/tmp/q.sock exec query-status
  qmpctl --qmp unix:/tmp/q.sock exec set-vcpu-dirty-limit dirty-rate=100
  qmpctl --qmp tcp:localhost:4444 exec blockdev-add \
      driver=null-co node-name=n size=0x1000
  qmpctl --qmp tcp:localhost:4444 exec transaction \
      'actions=[{"type": "abort", "data": {}}]'

Arguments are typed as the server's own schema has them: integers (also 0x10), booleans (true or
on, false or off), strings, members of objects (key.member=value), lists (key.0=a key.1=b, or key=a
key=b), and JSON for any of the last two. 'qmpctl schema COMMAND' explains them.

Exit status: 0 done; 1 the server refused, with its words on stderr (class: desc); 2 the command
line makes no sense; 3 the server can't be reached, hangs, or does not speak QMP.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from qemu.qmp import ExecuteError

from qmpserver.tools.address import add_qmp, server
from qmpserver.tools.client import REPLY_S, connected, execute
from qmpserver.tools.completion import complete_arguments, complete_commands
from qmpserver.tools.errors import sensible
from qmpserver.tools.introspection import Schema
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON, errors too")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        default=REPLY_S,
        metavar="S",
        help="give up waiting for the answer after so many seconds (%(default)g)",
    )
    command = parser.add_argument("command", metavar="COMMAND", help="such as query-status")
    command.completer = complete_commands  # type: ignore[attr-defined]
    words = parser.add_argument(
        "arguments", nargs="*", default=[], metavar="KEY=VALUE", help="its arguments"
    )
    words.completer = complete_arguments  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> int:
    """Execute and print."""
    try:
        returned = asyncio.run(_execute(args))
    except ExecuteError as error:
        said = {"class": error.error_class, "desc": str(error)}
        text = json.dumps({"error": said}) if args.json else f"{error.error_class}: {error}"
        print(text, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(returned))
    elif isinstance(returned, str):
        print(returned.rstrip("\r\n"), end="\n" if returned else "")
    elif returned != {}:
        print(json.dumps(returned, indent=2, ensure_ascii=False))
    return 0


async def _execute(args: argparse.Namespace) -> Any:
    address = server(args)
    async with connected(address) as client:
        schema = Schema()
        if args.arguments:
            try:
                entries = await execute(client, address, "query-qmp-schema", patience=args.timeout)
                with sensible(address, "query-qmp-schema"):
                    schema = Schema(entries)
            except ExecuteError:
                pass  # it has none: values are typed by what they look like
        arguments = schema.arguments(args.command, args.arguments)
        return await execute(client, address, args.command, arguments, args.timeout)
