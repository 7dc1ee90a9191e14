r"""Migrate a busy guest by each way to converge, over the same link, and compare their ends.

  qmpctl bench converge              # all ways, in QEMU and in this server
  qmpctl bench converge --within 10s --way promise --way ramp --cycles 20
  qmpctl bench converge --change bandwidth=64@2.5s --plot courses.svg

Each cycle takes a fresh guest, which has filled --data of its memory and goes on storing to it at
full speed. The total is the time from the command until the guest runs at the destination, and the
pause that in which it stood still, by its own counters. 'wrote' is the rate of its stores until it
was stopped, 'bound' the rate at which it may make pages dirty if all of --data is sent once and the
migration takes that total. A guest may write more than that: to pages that are still to be sent.

Ways: 'precopy' (no help), 'auto-converge', 'dirty-limit-N' with N MB/s, the promise of a total, and
the policies of management layers, which change downtime-limit from outside: 'stepped-downtime'
(nova), 'ramp' and 'stall' (KubeVirt). For a server that makes no promises, 'promise' sets the
limits of vCPUs from outside too.
"""

from __future__ import annotations

import argparse
import re
import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from qmpserver.bench.converging import PAGES_PER_MB, Change, Conditions, MissingError, Run, converge
from qmpserver.bench.guest_image import size
from qmpserver.bench.report import Result, Series, add_output, give, markdown, progress
from qmpserver.bench.servers import add_launched, launched, ours, qemu
from qmpserver.bench.ways import WAYS
from qmpserver.tools.errors import QmpctlError, UsageError
from qmpserver.tools.figures import MIB
from qmpserver.tools.numbers import at_least, duration
from qmpserver.vm.machine.guest import PATTERNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NEAR = 0.02  # of the goal's total
LATE_S = 0.005  # more than the allowed pause
CHANGES = ("bandwidth", "rate")

REMAINING = "remaining, as the server tells, MB"
LIMIT = "the lowest limit of a vCPU, MB/s"
THROTTLE = "time that is taken from the vCPUs, %"
RATE = "the guest's own rate, MB/s"
PAUSE = "downtime-limit, and at the end the pause that was felt, ms"
COURSES = (REMAINING, LIMIT, THROTTLE, RATE, PAUSE)


@dataclass(slots=True)
class Row:
    """All cycles of one way on one server."""

    server: str
    way: str
    runs: list[Run] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The row's name in the picture."""
        return f"{self.server}: {self.way}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "--way",
        action="append",
        choices=WAYS,
        metavar="NAME",
        help=f"one of {', '.join(WAYS)}; repeatable (all)",
    )
    add("--within", type=duration, default="5s", help="the goal's total (%(default)s)")
    add("--pause", type=duration, default="300ms", help="downtime-limit (%(default)s)")
    add(
        "--bandwidth",
        type=at_least(1),
        default=128,
        metavar="MB/S",
        help="max-bandwidth (%(default)s)",
    )
    add("--ram", type=size, default="512M", metavar="SIZE", help="a machine's -m (%(default)s)")
    add(
        "--data",
        type=size,
        default="256M",
        metavar="SIZE",
        help="memory in use, of all vCPUs together (%(default)s)",
    )
    add(
        "--working-set",
        type=size,
        default="0",
        metavar="SIZE",
        help="memory that the guest goes on storing to (all of --data)",
    )
    add("--vcpus", type=at_least(1), default=1, help="the number of vCPUs (%(default)s)")
    add("--pattern", choices=PATTERNS, default="sequential", help="of the stores (%(default)s)")
    add("--rate", type=at_least(1), default=0, metavar="MB/S", help="of each vCPU (full speed)")
    add("--light", type=at_least(1), default=0, metavar="MB/S", help="of the last vCPU alone")
    add(
        "--change",
        type=_change,
        action="append",
        default=[],
        metavar="NAME=MB/S@TIME",
        help="change bandwidth or rate under way, such as bandwidth=64@5s; repeatable",
    )
    add("--cycles", type=at_least(1), default=1, help="how often (%(default)s)")
    add(
        "--give-up",
        type=duration,
        default="40s",
        metavar="TIME",
        help="cancel a migration that has not ended by then (%(default)s)",
    )
    add_launched(parser)
    add_output(parser)


def _change(text: str) -> Change:
    """Return the change that `NAME=MB/S@TIME` means; raise ArgumentTypeError."""
    parts = re.fullmatch(r"(\w+)=(\d+)@(.+)", text, re.ASCII)
    if parts is None or parts[1] not in CHANGES or int(parts[2]) < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not {' or '.join(CHANGES)}, =MB/S and @TIME, such as bandwidth=64@5s"
        )
    return Change(parts[1], float(parts[2]), duration(parts[3]))


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    conditions = _conditions(args)
    candidates = launched(args, [qemu(args), ours(args)])
    ways = list(dict.fromkeys(args.way or WAYS))
    plan = [(server, Row(server.name, way)) for server in candidates for way in ways]
    missing: dict[str, None] = {}  # texts, each once
    with progress("converge", len(plan) * args.cycles) as done:
        for cycle in range(args.cycles):
            for number, (server, row) in enumerate(list(plan), cycle * len(plan) + 1):
                try:
                    row.runs.append(converge(server, WAYS[row.way], conditions))
                except MissingError as error:
                    plan.remove((server, row))
                    missing[f"not measured: {error}"] = None
                done(number)
    if not plan:
        raise QmpctlError("; ".join(missing))
    rows = [row for _, row in plan]
    title = (
        f"{conditions.data / MIB:.0f} MB at {conditions.bandwidth:.0f} MB/s, "
        f"within {conditions.within:g} s, pause {conditions.pause * 1e3:g} ms"
    )
    samples = [s for row in rows for s in _series(row)]
    everything = Result("converge", title, "", samples, notes=[*missing])
    courses = [s for row in rows for s in _courses(row, row.runs[0])]
    courses.sort(key=lambda series: COURSES.index(series.what))
    picture = Result("converge", title, "", courses, log=(RATE,))
    return give(args, everything, table(rows, conditions), picture)


def _conditions(args: argparse.Namespace) -> Conditions:
    """Return the conditions that the options name.

    Raises:
        UsageError: They contradict each other.
    """
    if args.working_set > args.data:
        raise UsageError("--working-set must be at most --data")
    if args.light and args.vcpus < 2:
        raise UsageError("--light needs --vcpus 2 or more")
    return Conditions(
        ram=args.ram,
        data=args.data,
        working_set=args.working_set,
        vcpus=args.vcpus,
        pattern=args.pattern,
        rate=args.rate,
        light=args.light,
        bandwidth=args.bandwidth,
        within=args.within,
        pause=args.pause,
        give_up=args.give_up,
        changes=tuple(args.change),
    )


def table(rows: Sequence[Row], conditions: Conditions) -> str:
    """Return a Markdown table with a row for each way on each server."""
    many = max(len(row.runs) for row in rows) > 1
    head = ["server", "way", "total, s", "off the goal, %", "pause, ms", "sent, MB"]
    head += ["wrote, MB/s", "bound, MB/s"]
    if many:
        head += ["completed", f"within {NEAR:.0%} of the goal", f"pause + {LATE_S * 1e3:.0f} ms"]
    return markdown([head, *(_cells(row, conditions, many) for row in rows)])


def _cells(row: Row, conditions: Conditions, many: bool) -> list[str]:
    """Return the cells of a row: the figure, or median and worst of many."""
    runs = row.runs
    totals = [run.total for run in runs if run.total is not None]
    pauses = [run.pause for run in runs if run.pause is not None]
    ended, bound = ["never" if many else runs[0].status, "-", "-"], "-"
    if 2 * len(totals) > len(runs):
        errors = [100 * (total / conditions.within - 1) for total in totals]
        worst = max(totals, key=lambda total: abs(total - conditions.within))
        never = len(totals) < len(runs)
        ended = [
            _middle(totals, ".2f", many, "never" if never else worst),
            _middle(errors, "+.1f", many, "never" if never else max(errors, key=abs)),
            _middle([1e3 * pause for pause in pauses], ".0f", many, 1e3 * max(pauses)),
        ]
        bound = f"{conditions.bound(statistics.median(totals)):.0f}"
    sent, wrote = [run.sent for run in runs], [sum(run.wrote) for run in runs]
    cells = [row.server, row.way, *ended, _middle(sent, ".0f", many, max(sent))]
    cells += [_middle(wrote, ".0f", many, min(wrote)), bound]
    if many:
        near = sum(abs(total / conditions.within - 1) <= NEAR for total in totals)
        short = sum(pause <= conditions.pause + LATE_S for pause in pauses)
        cells += [f"{count} of {len(runs)}" for count in (len(totals), near, short)]
    return cells


def _middle(values: Sequence[float], form: str, many: bool, worst: float | str) -> str:
    """Return the text of the median, and of the worst if there are many."""
    median = format(statistics.median(values), form)
    last = worst if isinstance(worst, str) else format(worst, form)
    return f"{median} / {last}" if many else median


def _series(row: Row) -> Iterator[Series]:
    """Yield all samples of a row: a sample for each cycle, and the course of each cycle."""
    runs = row.runs
    ended = [run for run in runs if run.total is not None]
    for what, samples in (
        ("completed", [float(run.total is not None) for run in runs]),
        ("total, s", [run.total for run in ended if run.total is not None]),
        ("pause, s", [run.pause for run in ended if run.pause is not None]),
        ("from STOP to RESUME, s", [run.events for run in ended if run.events is not None]),
        ("sent, MB", [run.sent for run in runs]),
        ("wrote, MB/s", [sum(run.wrote) for run in runs]),
    ):
        yield Series(row.name, what, samples)
    for index in range(len(runs[0].wrote)):
        name = f"vCPU {index}"
        yield Series(row.name, f"{name} before, MB/s", [run.before[index] for run in runs])
        yield Series(row.name, f"{name} wrote, MB/s", [run.wrote[index] for run in runs])
    for number, run in enumerate(runs, 1):
        for series in _courses(row, run):
            series.what = f"cycle {number}: {series.what}"
            yield series


def _courses(row: Row, run: Run) -> Iterator[Series]:
    """Yield the panels of one run; one without samples is left out."""
    course = run.course
    seconds = [moment.seconds for moment in course]
    yield Series(row.name, REMAINING, [moment.remaining for moment in course], seconds)
    limits = [float(min(filter(None, moment.limits), default=0)) for moment in course]
    throttles = [float(moment.throttle) for moment in course]
    for what, samples in ((LIMIT, limits), (THROTTLE, throttles)):
        if any(samples):
            yield Series(row.name, what, samples, seconds)
    stores = [(0.0, 0), *((moment.seconds, sum(moment.pages)) for moment in course)]
    rates = [
        (count - before) / PAGES_PER_MB / (now - then)
        for (then, before), (now, count) in pairwise(stores)
    ]
    yield Series(row.name, RATE, rates, seconds)
    allowed = [1e3 * moment.allowed for moment in course]
    if run.total is not None and run.pause is not None:
        allowed, seconds = [*allowed, 1e3 * run.pause], [*seconds, run.total]
    yield Series(row.name, PAUSE, allowed, seconds)
