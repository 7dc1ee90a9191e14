"""Migrate a guest from one process of a server to the next, again and again, and measure it.

By default this measures QEMU and this server in turn, each to itself, with the same guest and the
same parameters. Each cycle moves the guest twice: paused, for the speed, and running, for the pause
that it feels: the time for which its own counter stood still in both processes. The guest has
filled --data of its memory, and then stores to a few pages only.

'bare sendmsg' is the speed of that call from such memory to a process that fills fresh memory: the
bound of any migration here.
"""

from __future__ import annotations

import mmap
import statistics
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from qmpserver.bench.guest_image import size
from qmpserver.bench.launch import launch
from qmpserver.bench.pause import Pause
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import add_launched, launched, ours, qemu
from qmpserver.bench.transfer import sendmsg_rate
from qmpserver.bench.vm import VmError
from qmpserver.tools.figures import MIB, read_figures
from qmpserver.tools.migration import Migration
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from qmpserver.bench.servers import Candidate
    from qmpserver.bench.vm import Vm
    from qmpserver.tools.migration import Outcome

BARE = "bare sendmsg"
RUNS_S = 10.0
IDLE = (16, 100_000)  # pages; ticks between two stores, some 40 us

SPEED = "paused guest, MB/s"
PAUSED_TOTAL = "paused guest, total, ms"
TOTAL = "running guest, total, ms"
DOWNTIME = "running guest, downtime as the server reports it, ms"
EVENTS = "running guest, from STOP to RESUME, ms"
PAUSE = "running guest, pause that it feels, ms"
ROWS = (SPEED, PAUSED_TOTAL, TOTAL, DOWNTIME, EVENTS, PAUSE)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--cycles", type=at_least(1), default=10, help="how often (%(default)s)")
    parser.add_argument(
        "--ram", type=size, default="2G", metavar="SIZE", help="a machine's -m (%(default)s)"
    )
    parser.add_argument(
        "--data", type=size, default="1G", metavar="SIZE", help="memory in use (%(default)s)"
    )
    parser.add_argument(
        "--bandwidth", type=at_least(0), default=0, metavar="MB/S", help="0, the default: unlimited"
    )
    parser.add_argument(
        "--downtime", type=at_least(0), default=300, metavar="MS", help="its limit (%(default)s)"
    )
    parser.add_argument(
        "--capability",
        action="append",
        default=[],
        metavar="NAME",
        help="such as multifd; repeatable",
    )
    add_launched(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    candidates = launched(args, [qemu(args), ours(args)])
    names = [*(server.name for server in candidates), BARE]
    series = {(row, name): Series(name, row) for row in ROWS for name in names}
    with ExitStack() as stack:
        guests = [stack.enter_context(closing(Guest(server, args))) for server in candidates]
        done = stack.enter_context(progress("migrate", args.cycles))
        for cycle in range(args.cycles):
            for guest in guests if cycle % 2 else guests[::-1]:
                for row, value in guest.cycle().items():
                    series[row, guest.name].samples.append(value)
            series[SPEED, BARE].samples.append(sendmsg_rate(args.data))
            done(cycle + 1)
    speeds = {name: statistics.median(series[SPEED, name].samples) for name in names}
    notes = [f"{name}: {speeds[name] / speeds[BARE]:.2f} of {BARE}" for name in names[:-1]]
    result = Result(
        "migrate",
        f"{args.data / MIB:.0f} MB in use of {args.ram / MIB:.0f}",
        "",
        list(series.values()),
        show=("median", "min", "max"),
        digits=1,
        paired=True,
        notes=["\n".join(notes)],
    )
    return give(args, result)


class Guest:
    """A guest that moves from one process of a server to the next; it is stopped in between."""

    def __init__(self, server: Candidate, args: argparse.Namespace) -> None:
        self.name = server.name
        self._server = server
        self._args = args
        with ExitStack() as stack:
            self._vm = stack.enter_context(self._launched(server.command))
            self._vm.wait_stores(args.data // mmap.PAGESIZE, 1)
            self._vm.pace(0, *IDLE)  # a few pages only
            self._vm.qmp.execute("stop")
            self._process = stack.pop_all()

    def close(self) -> None:
        """End its process."""
        self._process.close()

    def _launched(self, command: str) -> AbstractContextManager[Vm]:
        return launch(
            command,
            vcpus=1,
            accel=self._server.accel,
            name=self.name,
            ram=f"{self._args.ram}B",
            guest={"size": f"{self._args.data}B"},
        )

    def cycle(self) -> dict[str, float]:
        """Move paused, then running; return the value of each row that the server has.

        Raises:
            VmError: The guest has not moved, or does not run.
        """
        outcome, took, _ = self._move()
        values = {SPEED: read_figures(outcome.source).sent / MIB / took, PAUSED_TOTAL: took * 1e3}
        self._run()
        outcome, took, felt = self._move(running=True)
        self._vm.qmp.execute("stop")
        values |= {TOTAL: took * 1e3, PAUSE: felt}
        if "downtime" in outcome.source:
            values[DOWNTIME] = float(outcome.source["downtime"])
        if outcome.pause is not None:
            values[EVENTS] = outcome.pause
        return values

    def _run(self) -> None:
        """Run the guest, and wait until it does."""
        before = self._vm.progress(0)
        self._vm.qmp.execute("cont")
        deadline = time.monotonic() + RUNS_S
        while self._vm.progress(0) == before:
            if time.monotonic() > deadline:
                raise VmError(f"{self.name}: waited {RUNS_S:.0f} s for the guest to run")
            time.sleep(0.001)

    def _move(self, *, running: bool = False) -> tuple[Outcome, float, float]:
        """Move to a new process, and end the old one.

        Returns:
            The outcome, the seconds from the command to the end on both sides, and for a running
            guest the milliseconds of its pause.
        """
        parameters = {
            "max-bandwidth": self._args.bandwidth * MIB,
            "downtime-limit": self._args.downtime,
        }
        with ExitStack() as stack:
            here = self._vm
            there = stack.enter_context(self._launched(f"{self._server.command} -incoming defer"))
            with Migration(here.qmp, there.qmp) as migration, ExitStack() as watch:
                migration.prepare(self._args.capability, parameters, parameters)
                pause = watch.enter_context(Pause(here, there)) if running else None
                start = time.monotonic()
                migration.start()
                outcome = migration.follow(lambda _figures: None)
                took = time.monotonic() - start
                if outcome.status != "completed":
                    raise VmError(f"{self.name}: the migration {outcome.status}: {outcome.error}")
                felt = pause.ms() if pause else 0.0
            self._process.close()
            self._vm, self._process = there, stack.pop_all()
        return outcome, took, felt
