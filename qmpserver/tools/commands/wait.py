"""Wait for an event and print it.

  qmpctl --qmp unix:/tmp/q.sock wait STOP
  qmpctl --qmp unix:/tmp/q.sock wait DEVICE_DELETED device=nic --timeout 30
  qmpctl --qmp unix:/tmp/q.sock wait JOB_STATUS_CHANGE id=job0 status=concluded

KEY=VALUE words name members that the event's data must have, at least; they are typed as arguments
of 'exec' are. Servers do not repeat events: one that comes before this command has connected is not
seen. QEMU's monitors serve one client at a time: wait at one that nothing else uses. 'exec --wait'
executes a command and waits for its end.

Exit status: 0 it came; 1 it did not come in time; 2 the command line makes no sense; 3 the server
cannot be reached, hangs up, or does not speak QMP.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.model import ANY, ObjectType
from qmpserver.tools.address import add_qmp, server
from qmpserver.tools.arguments import read_arguments
from qmpserver.tools.client import GREETING_S, Client
from qmpserver.tools.completion import complete_events
from qmpserver.tools.errors import QmpctlError, RefusedError, UsageError, sensible
from qmpserver.tools.hints import meant, unknown
from qmpserver.tools.introspection import fetch_schema
from qmpserver.tools.numbers import at_least
from qmpserver.tools.running import PATIENCE_S, fits

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from qmpserver.qapi.model import Type


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument(
        "--timeout",
        type=at_least(0.001, float),
        metavar="S",
        help="give up after this many seconds; by default, never",
    )
    event = parser.add_argument("event", metavar="EVENT", help="such as STOP")
    event.completer = complete_events  # type: ignore[attr-defined]
    parser.add_argument(
        "where", nargs="*", default=[], metavar="KEY=VALUE", help="members of its data"
    )


def run(args: argparse.Namespace) -> int:
    """Wait for the event and print it."""
    begun = time.monotonic()
    events: list[dict[str, Any]] = []
    greeting = GREETING_S if args.timeout is None else min(args.timeout, GREETING_S)
    with Client(server(args), greeting_s=greeting, on_event=events.append) as client:
        with sensible(client.address, "query-qmp-schema"):
            where = _where(args.where, _data(client, args.event), args.event)
        while True:
            with sensible(client.address, "an event"):
                found = [one for one in events if one["event"] == args.event]
                found = [one for one in found if fits(where, one.get("data", {}))]
            if found:
                break
            events.clear()
            left = PATIENCE_S
            if args.timeout is not None:
                left = min(left, begun + args.timeout - time.monotonic())
            if left <= 0:
                raise QmpctlError(f"{client.address}: no {args.event} within {args.timeout:g} s")
            client.wait_event(left)
    print(json.dumps(found[0], indent=None if args.json else 2, ensure_ascii=args.json))
    return 0


def _where(words: Sequence[str], data: Type, event: str) -> dict[str, Any]:
    """Return the members that words name.

    Raises:
        UsageError: The data of no such event has them.
    """
    where = read_arguments(words, data)
    if where and isinstance(data, ObjectType) and not data.members:
        raise UsageError(f"{event} has no data")
    for kind, place, near in unknown(where, data):
        what = "member" if kind == "argument" else kind
        raise UsageError(f"the data of {event} has no {what} '{place}'{near}")
    return where


def _data(client: Client, event: str) -> Type:
    """Return the type of an event's data.

    Raises:
        UsageError: The server has no such event.
    """
    try:
        schema = fetch_schema(client)
    except RefusedError:
        return ANY
    if event not in schema.events:
        near = meant(event, schema.events)
        raise UsageError(f"the server has no event '{event}'{near}")
    return schema.events[event].data
