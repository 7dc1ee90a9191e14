r"""Execute commands and print their results.

  qmpctl --qmp unix:/tmp/q.sock exec query-status
  qmpctl --qmp unix:/tmp/q.sock exec set-vcpu-dirty-limit dirty-rate=100
  qmpctl --qmp tcp:localhost:4444 exec blockdev-add \
      driver=null-co node-name=n size=0x1000
  qmpctl --qmp tcp:localhost:4444 exec transaction \
      'actions=[{"type": "abort", "data": {}}]'

The server's own schema gives the types of arguments: integers (also 0x10), booleans (true or on,
false or off), strings, members of objects (key.member=value), lists (key.0=a key.1=b, or key=a
key=b), and JSON for objects and lists. 'qmpctl schema COMMAND' explains them.

  qmpctl --qmp unix:/tmp/q.sock exec --each stop 'device_del id=nic' cont
  qmpctl --qmp unix:/tmp/q.sock exec - < commands
  qmpctl --qmp unix:/tmp/q.sock exec calc-dirty-rate calc-time=1 --wait

Several commands take one connection: each word is one with '--each'; with '-', each line of the
standard input, quoted as in a shell, or a JSON object. Empty lines and lines that begin with # are
left out. The first command that fails is the last one. With '--wait', commands that go on after
their answer (calc-dirty-rate, migrate, device_del, jobs) are waited for, and their outcome printed.

Exit status: 0 success; 1 the server refused, with its words on stderr (class: desc), or what was
waited for failed; 2 the command line makes no sense; 3 the server cannot be reached, hangs, or does
not speak QMP.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from qmpserver.qapi import Schema
from qmpserver.qapi.model import ANY
from qmpserver.tools.address import add_qmp, server
from qmpserver.tools.arguments import read_arguments
from qmpserver.tools.client import GREETING_S, Client
from qmpserver.tools.completion import complete_arguments, complete_commands
from qmpserver.tools.errors import RefusedError, ServerError, UsageError, sensible
from qmpserver.tools.hints import hints
from qmpserver.tools.introspection import fetch_schema
from qmpserver.tools.numbers import at_least
from qmpserver.tools.running import follow, goes_on

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

REPLY_S = 30.0
STDIN = "-"
LONGEST_LINE = 1 << 20  # characters


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON, errors too")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        metavar="S",
        help=f"give up waiting for an answer after this many seconds ({REPLY_S:g}); with --wait, "
        "for the end of the work (no limit)",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the end of the work, and print its outcome",
    )
    parser.add_argument("--each", action="store_true", help="each word is a command of its own")
    command = parser.add_argument(
        "command", metavar="COMMAND", help="such as query-status; - reads commands from stdin"
    )
    command.completer = complete_commands  # type: ignore[attr-defined]
    words = parser.add_argument(
        "arguments", nargs="*", default=[], metavar="KEY=VALUE", help="its arguments"
    )
    words.completer = complete_arguments  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> int:
    """Execute the commands and print their results."""
    patience = REPLY_S if args.wait or args.timeout is None else args.timeout
    greeting = GREETING_S if args.timeout is None else min(args.timeout, GREETING_S)
    with Client(server(args), greeting_s=greeting, reply_s=patience) as client:
        execution = _Execution(client, args)
        for command, arguments in _commands(args):
            try:
                returned = execution.run(command, arguments)
            except RefusedError as error:
                said = {"class": error.error_class, "desc": error.desc}
                if not args.json:
                    for hint in execution.hints(error, command):
                        print(f"qmpctl: {hint}", file=sys.stderr)
                print(json.dumps({"error": said}) if args.json else error, file=sys.stderr)
                return error.status
            _print(returned, as_json=args.json)
    return 0


def _commands(args: argparse.Namespace) -> Iterator[tuple[str, Sequence[str] | dict[str, Any]]]:
    """Yield each command, with its arguments as words or, from JSON, as an object."""
    words = [args.command, *args.arguments]
    if args.command == STDIN:
        if args.arguments:
            raise UsageError("'-' reads the commands from stdin: it takes no arguments")
        for number, line in enumerate(_lines(), 1):
            try:
                yield from _parsed(line)
            except UsageError as error:
                raise UsageError(f"line {number}: {error}") from None
    elif args.each:
        for word in words:
            yield from _parsed(word)
    else:
        yield args.command, args.arguments


def _lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # refused where it is an argument's
    while line := sys.stdin.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UsageError(f"a line of stdin has more than {LONGEST_LINE - 1} characters")
        yield line


def _parsed(line: str) -> Iterator[tuple[str, Sequence[str] | dict[str, Any]]]:
    """Yield the command that a line has; none for a line without one."""
    line = line.strip()
    if line.startswith("{"):
        yield _from_json(line)
    elif line and not line.startswith("#"):
        try:
            command, *words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{error}: {line}") from None
        yield command, words


def _from_json(text: str) -> tuple[str, dict[str, Any]]:
    try:
        message = json.loads(text)
        command, arguments = message.pop("execute"), message.pop("arguments", {})
    except (LookupError, ValueError, RecursionError) as error:
        raise UsageError(f"not a command: {text[:100]} ({error})") from None
    message.pop("id", None)
    if message or not isinstance(command, str) or not isinstance(arguments, dict):
        raise UsageError(f"not a command: {text[:100]}")
    return command, arguments


class _Execution:
    """The commands that are executed on one connection."""

    def __init__(self, client: Client, args: argparse.Namespace) -> None:
        self._client = client
        self._args = args
        self._known: Schema | None = None
        self._sent: dict[str, Any] = {}

    def run(self, command: str, arguments: Sequence[str] | dict[str, Any]) -> Any:
        """Execute a command; return its result, or with `--wait` the outcome of its work."""
        self._sent = {}
        if isinstance(arguments, dict):
            self._sent = arguments
        elif arguments:
            declared = self._schema.commands.get(command)
            with sensible(self._client.address, "query-qmp-schema"):
                self._sent = read_arguments(arguments, declared.arguments if declared else ANY)
        several = self._args.each or self._args.command == STDIN
        if self._args.wait and not (several and not goes_on(self._schema, command)):
            patience = self._args.timeout
            return follow(self._client, self._schema, command, self._sent, patience=patience)
        return self._client.execute(command, self._sent)

    def hints(self, error: RefusedError, command: str) -> list[str]:
        """Return lines that tell why the server may have refused the last command."""
        try:
            with sensible(self._client.address, "query-qmp-schema"):
                return list(hints(error, self._schema, command, self._sent))
        except ServerError:
            return []

    @property
    def _schema(self) -> Schema:
        """The server's schema; an empty one if it has none: values have the type they look like."""
        if self._known is None:
            try:
                self._known = fetch_schema(self._client)
            except RefusedError:
                self._known = Schema([])
        return self._known


def _print(returned: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(returned), flush=True)
    elif isinstance(returned, str):
        print(returned.rstrip("\r\n"), end="\n" if returned else "", flush=True)
    elif returned != {}:
        print(json.dumps(returned, indent=2, ensure_ascii=False), flush=True)
