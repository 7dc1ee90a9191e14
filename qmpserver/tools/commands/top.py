"""Watch the vCPUs of servers: dirty rates, limits, and how much a limit throttles them.

  qmpctl --qmp unix:/tmp/a.sock --qmp unix:/tmp/b.sock top

The source of each rate is shown with it: 'limit' is the server's own while a limit is in force,
'ring' the pages that passed through the dirty ring since the last look (this server, while it
tracks), 'measured' the last measurement that any client has asked for. Only the key m starts one.
'-' stands for a value that the server does not report: QEMU reports neither throttling nor its
ring.

Keys: l and L limit the selected vCPU or all of its server, c and C cancel, m measures for a second,
s sorts by the next column, / filters, q quits. It ends when the last server has gone (status 3).
"""

from __future__ import annotations

import csv
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.tools.address import add_qmp, servers
from qmpserver.tools.errors import ServerError, UsageError, needs
from qmpserver.tools.numbers import at_least
from qmpserver.tools.watching import COLUMNS, SORTS, Vcpu, Watcher, cells, chosen, summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

INTERVAL_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument(
        "--interval",
        type=at_least(0.1, float),
        default=INTERVAL_S,
        metavar="S",
        help="seconds between two looks (%(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="look for one interval, print, and end")
    parser.add_argument(
        "--csv", action="store_true", help="print a line of CSV for each vCPU, again and again"
    )
    parser.add_argument(
        "--sort", choices=SORTS, default="server", help="the order of rows (%(default)s)"
    )
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="only rows that contain this text"
    )


def run(args: argparse.Namespace) -> int:
    """Watch."""
    addresses = servers(args)
    if not addresses:
        raise UsageError("give at least one --qmp unix:PATH or --qmp tcp:HOST:PORT")
    watch = _print if args.once or args.csv else _live()
    with ExitStack() as stack:
        watch(args, [stack.enter_context(Watcher(address)) for address in addresses])
    return 0


def _live() -> Callable[[argparse.Namespace, Sequence[Watcher]], None]:
    """Return the function that shows the live view.

    Raises:
        QmpctlError: textual is not installed.
        UsageError: There is no terminal.
    """
    with needs("top", "textual", "tools"):
        from qmpserver.tools.top import Top
    # textual draws on stderr, so stdout may go elsewhere
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this is no terminal: use --once or --csv")

    def show(args: argparse.Namespace, watchers: Sequence[Watcher]) -> None:
        if ended := Top(watchers, args.interval, args.sort, args.filter).run():
            raise ServerError(ended)

    return show


def _print(args: argparse.Namespace, watchers: Sequence[Watcher]) -> None:
    for watcher in watchers:
        watcher.look()  # rates are counted from here
    lines = csv.writer(sys.stdout, lineterminator="\n")
    if args.csv:
        heads = ("time", "server", "vcpu", "rate", "source", "age", "limit", "throttled")
        lines.writerow(heads)
    while True:
        time.sleep(args.interval)
        views = [watcher.look() for watcher in watchers]
        vcpus = chosen([v for view in views for v in view.vcpus], args.sort, args.filter)
        if args.csv:
            lines.writerows(map(_line, vcpus))
        else:
            for watcher, view in zip(watchers, views, strict=True):
                print(summary(watcher.name, view))
            rows = [COLUMNS[:-1], *map(cells, vcpus)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                print("  ".join(map(str.ljust, row, widths)).rstrip())
        sys.stdout.flush()
        if args.once:
            return


def _line(vcpu: Vcpu) -> list[str]:
    def text(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    return [
        f"{time.time():.3f}",
        vcpu.server,
        str(vcpu.index),
        text(vcpu.rate, 1),
        vcpu.source,
        text(vcpu.age, 1),
        text(vcpu.limit, 0),
        text(vcpu.throttled, 3),
    ]
