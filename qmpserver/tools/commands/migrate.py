r"""Migrate a guest from one server to another, and wait until it runs there.

  qmpctl migrate unix:/tmp/a.sock unix:/tmp/b.sock
  qmpctl migrate unix:/tmp/a.sock unix:/tmp/b.sock --within 30s --pause 300ms
  qmpctl migrate unix:/tmp/a.sock unix:/tmp/b.sock --bandwidth 500 \
      --capability dirty-limit --parameter vcpu-dirty-limit=50
  qmpctl migrate tcp:here:4444 tcp:there:4444 --uri tcp:there:4445

DESTINATION is a machine of the same kind that was started with '-incoming defer' or that listens
already. Without --uri, a socket on which it listens is used, or else a private UNIX socket.
Capabilities and parameters that are not given stay as the servers have them.

--within promises a total time, the pause included: the guest is slowed as far as that takes;
--pause is the longest pause. A source of this project keeps such a promise by itself. A QEMU is
steered from outside, which is less exact: it needs -accel kvm,dirty-ring-size=1024, and mostly ends
early; with larger rings several busy vCPUs are slowed too late. If the promise cannot be kept, a
line tells so once, and the migration goes on. At the end, the source's limits and its
downtime-limit are as they were at the start.

Ctrl-C cancels the migration, and the guest runs on at SOURCE. A destination that was told to
listen and does not get the guest is ended. The pause is the time from the event STOP of SOURCE to
RESUME of DESTINATION, by their clocks.

Exit status: 0 completed; 1 failed or refused; 2 the command line makes no sense; 3 a server cannot
be reached, hangs, or does not speak QMP; 130 cancelled by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qmpserver.qapi.model import ANY
from qmpserver.tools.address import address, complete_addresses
from qmpserver.tools.arguments import read_arguments
from qmpserver.tools.client import Client
from qmpserver.tools.completion import (
    complete_capabilities,
    complete_durations,
    complete_parameters,
)
from qmpserver.tools.errors import QmpctlError, sensible
from qmpserver.tools.figures import MIB, Figures, read_figures
from qmpserver.tools.introspection import fetch_schema
from qmpserver.tools.migration import Migration, Outcome
from qmpserver.tools.numbers import at_least, duration
from qmpserver.tools.promise import Promised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from qmpserver.tools.side import Side

LINE_S = 1.0  # between two lines where there is no terminal


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    for name, text in (
        ("source", "the server that has the guest: unix:PATH or tcp:HOST:PORT"),
        ("destination", "the server that waits for it"),
    ):
        server = parser.add_argument(name, metavar=name.upper(), type=address, help=text)
        server.completer = complete_addresses  # type: ignore[attr-defined]
    parser.add_argument(
        "--uri",
        type=_socket_uri,
        help="the socket between them: unix:PATH or tcp:HOST:PORT, as both reach it",
    )
    parser.add_argument(
        "--bandwidth", type=at_least(0), metavar="MB/S", help="max-bandwidth; 0 is unlimited"
    )
    for name, text in (
        ("--within", "the promised total time, such as 30s; the guest is slowed to keep it"),
        ("--pause", "downtime-limit, the longest pause of the guest, such as 300ms"),
    ):
        option = parser.add_argument(name, type=duration, metavar="TIME", help=text)
        option.completer = complete_durations  # type: ignore[attr-defined]
    capability = parser.add_argument(
        "--capability",
        action="append",
        default=[],
        metavar="NAME",
        help="a capability to switch on, such as multifd; repeatable",
    )
    capability.completer = complete_capabilities  # type: ignore[attr-defined]
    parameter = parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter to set, such as multifd-channels=4; repeatable",
    )
    parameter.completer = complete_parameters  # type: ignore[attr-defined]
    parser.add_argument("--json", action="store_true", help="print the end only, as a line of JSON")


def _socket_uri(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind in ("unix", "tcp", "vsock") and rest:
        return text
    # A file would be read before it is written; a descriptor or a command is of one server only.
    raise argparse.ArgumentTypeError(f"'{text}' is neither unix:PATH nor tcp:HOST:PORT")


def run(args: argparse.Namespace) -> int:
    """Migrate."""
    with (
        Client(args.source) as source,
        Client(args.destination) as destination,
        Migration(source, destination) as migration,
    ):
        migration.prepare(
            args.capability, _parameters(args, source), _parameters(args, destination)
        )
        with (
            _Interrupt() as interrupt,
            _promised(args, migration.source) as promise,
            _shown(args.json) as show,
        ):
            if promise is not None:
                show = _with_promise(promise, show, args.json)
            migration.start(args.uri)
            outcome = migration.follow(show, interrupt.fd)
    if args.json:
        _say(json.dumps(asdict(outcome) | _as_json(promise)))
    if outcome.status == "failed":
        guest = f"the source's guest is '{outcome.guest}'"
        raise QmpctlError(f"the migration failed: {outcome.error}; {guest}")
    if not args.json:
        _say(_told(outcome))
    if outcome.status == "completed":
        return 0
    return 128 + interrupt.number if interrupt.number else QmpctlError.status


def _parameters(args: argparse.Namespace, client: Client) -> dict[str, Any]:
    """Return the arguments of `migrate-set-parameters` that the options stand for."""
    parameters: dict[str, Any] = {}
    if args.parameter:
        command = fetch_schema(client).commands.get("migrate-set-parameters")
        with sensible(client.address, "query-qmp-schema"):
            parameters = read_arguments(args.parameter, command.arguments if command else ANY)
    if args.bandwidth is not None:
        parameters["max-bandwidth"] = args.bandwidth * MIB
    if args.pause is not None:
        parameters["downtime-limit"] = max(1, round(args.pause * 1e3))
    return parameters


def _promised(
    args: argparse.Namespace, source: Side
) -> contextlib.AbstractContextManager[Promised | None]:
    return contextlib.nullcontext() if args.within is None else Promised(source, args.within)


def _with_promise(
    promise: Promised, show: Callable[[Figures], None], quiet: bool
) -> Callable[[Figures], None]:
    """Tell the forecast; return a function that keeps the promise, or tells once that it cannot."""
    told = False

    def look(figures: Figures) -> None:
        nonlocal told
        figures = promise.look(figures)
        if promise.late is not None and not told and not quiet:
            told = True
            expected = f"{promise.late:.1f} s are expected"
            if math.isinf(promise.late):
                expected = "no end is in sight"
            _say(f"{promise.total_time:g} s cannot be kept any more: {expected}")
        show(figures)

    if promise.forecast and not quiet:
        _say(f"forecast: {promise.forecast}")
    return look


def _as_json(promise: Promised | None) -> dict[str, Any]:
    """Return the promise as a part of the end; times in ms."""
    if promise is None:
        return {}
    late = promise.late
    return {
        "promise": {
            "total-time": round(promise.total_time * 1e3),
            "downtime-limit": round(promise.downtime_limit * 1e3),
            "forecast": promise.forecast,
            "late": late is not None,
            "expected": None if late is None or math.isinf(late) else round(late * 1e3),
        }
    }


class _Interrupt:
    """Notes the first SIGINT or SIGTERM as long as the context lasts; a second one interrupts.

    Attributes:
        number: The signal; 0 before.
        fd: A descriptor that becomes readable with it.
    """

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> _Interrupt:
        self.fd, self._writer = os.pipe()
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._writer)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        os.write(self._writer, b"\0")


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[Figures], None]]:
    """Yield a function that shows figures: a bar on a terminal, otherwise a line each second."""
    if quiet:
        yield lambda _figures: None
        return
    with contextlib.suppress(ImportError):  # rich is optional
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console()
        if console.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            bars = Progress(text, BarColumn(None), console=console, transient=True, expand=True)
            with bars:
                bar = bars.add_task("")
                yield lambda figures: bars.update(
                    bar,
                    description=f"{figures.status}: {figures.progress}",
                    total=figures.total or None,
                    completed=figures.total - figures.remaining,
                    refresh=True,
                )
            return
    yield _Lines().show


class _Lines:
    """Prints figures in lines: with each status, and every `LINE_S`."""

    def __init__(self) -> None:
        self._status = ""
        self._due = 0.0

    def show(self, figures: Figures) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if figures.status != self._status or now >= self._due:
            self._status, self._due = figures.status, now + LINE_S
            _say(f"{figures.seconds:6.1f} s  {figures.status}: {figures.progress}")


def _told(outcome: Outcome) -> str:
    """Return the lines that tell the end of a migration that has not failed."""
    if outcome.status == "cancelled":
        return f"cancelled; the source's guest is '{outcome.guest}'"
    end = read_figures(outcome.source)
    pause = "none" if outcome.pause is None else f"{outcome.pause:.1f} ms"
    return (
        f"completed in {end.seconds:.2f} s: {end.sent / MIB:.0f} MB, {end.rate:.0f} MB/s, "
        f"{end.rounds} rounds\n"
        f"downtime {outcome.source.get('downtime', '?')} ms, pause {pause}; "
        f"the destination's guest is '{outcome.guest}'"
    )


def _say(line: str) -> None:
    """Print at once; without a reader the migration goes on unseen."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
