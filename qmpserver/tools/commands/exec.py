r"""Execute a command and print its result.

  qmpctl --qmp unix:/tmp/q.sock exec query-status
  qmpctl --qmp unix:/tmp/q.sock exec set-vcpu-dirty-limit dirty-rate=100
  qmpctl --qmp tcp:localhost:4444 exec blockdev-add \
      driver=null-co node-name=n size=0x1000
  qmpctl --qmp tcp:localhost:4444 exec transaction \
      'actions=[{"type": "abort", "data": {}}]'

The server's own schema gives the types of arguments: integers (also 0x10), booleans (true or on,
false or off), strings, members of objects (key.member=value), lists (key.0=a key.1=b, or key=a
key=b), and JSON for objects and lists. 'qmpctl schema COMMAND' explains them.

Exit status: 0 success; 1 the server refused, with its words on stderr (class: desc); 2 the command
line makes no sense; 3 the server cannot be reached, hangs, or does not speak QMP.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from qmpserver.qapi import Schema
from qmpserver.qapi.model import ANY
from qmpserver.tools.address import add_qmp, server
from qmpserver.tools.arguments import read_arguments
from qmpserver.tools.client import Client
from qmpserver.tools.completion import complete_arguments, complete_commands
from qmpserver.tools.errors import RefusedError, sensible
from qmpserver.tools.introspection import fetch_schema
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse

REPLY_S = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON, errors too")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        default=REPLY_S,
        metavar="S",
        help="give up waiting for the answer after this many seconds (%(default)g)",
    )
    command = parser.add_argument("command", metavar="COMMAND", help="such as query-status")
    command.completer = complete_commands  # type: ignore[attr-defined]
    words = parser.add_argument(
        "arguments", nargs="*", default=[], metavar="KEY=VALUE", help="its arguments"
    )
    words.completer = complete_arguments  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> int:
    """Execute the command and print its result."""
    try:
        returned = _execute(args)
    except RefusedError as error:
        said = {"class": error.error_class, "desc": error.desc}
        print(json.dumps({"error": said}) if args.json else error, file=sys.stderr)
        return error.status
    if args.json:
        print(json.dumps(returned))
    elif isinstance(returned, str):
        print(returned.rstrip("\r\n"), end="\n" if returned else "")
    elif returned != {}:
        print(json.dumps(returned, indent=2, ensure_ascii=False))
    return 0


def _execute(args: argparse.Namespace) -> Any:
    with Client(server(args), reply_s=args.timeout) as client:
        arguments = {}
        if args.arguments:
            try:
                schema = fetch_schema(client)
            except RefusedError:
                schema = Schema([])  # values then have the type that they look like
            command = schema.commands.get(args.command)
            with sensible(client.address, "query-qmp-schema"):
                arguments = read_arguments(args.arguments, command.arguments if command else ANY)
        return client.execute(args.command, arguments)
