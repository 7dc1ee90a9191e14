"""Measure how fast a guest runs free, tracked and limited, by its own counters.

By default this measures this server and QEMU in turn, window by window. A guest is tracked while
the server measures its dirty rate. A limited guest is measured once the limit has settled.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import add_servers, enter, launched, ours, qemu
from qmpserver.bench.vm import VmError
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from qmpserver.bench.vm import Vm

MEASURED_S = 10.0
SETTLE_S = 3.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--windows", type=at_least(1), default=20, help="of a second (%(default)s)")
    parser.add_argument("--limit", type=at_least(1), default=100, help="MB/s (%(default)s)")
    parser.add_argument(
        "--limited-windows",
        type=at_least(1),
        default=3,
        help="windows under the limit (%(default)s)",
    )
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""

    def limited(vm: Vm) -> float:
        return _limited_window(vm, args.limit)

    with ExitStack() as stack:
        vms = enter(stack, launched(args, [qemu(args), ours(args)]), servers(args), 1)
        done = stack.enter_context(progress("guest", 2 * args.windows + args.limited_windows))
        before = 0
        series = []
        for what, windows, rate in (
            ("free", args.windows, free_window),
            ("tracked", args.windows, tracked_window),
            (f"limited to {args.limit} MB/s", args.limited_windows, limited),
        ):
            of_each = [Series(vm.name, what) for vm in vms]
            _in_turn(vms, of_each, windows, rate, done, before)
            series += of_each
            before += windows
    show = ("median", "min", "max")
    title = "MB/s that one vCPU dirties"
    return give(args, Result("guest", title, "MB/s", series, show=show, digits=0, paired=True))


def _in_turn(
    vms: list[Vm],
    series: list[Series],
    windows: int,
    rate: Callable[[Vm], float],
    done: Callable[[int], None],
    before: int,
) -> None:
    """Measure one window after the other on each; every other time in reverse order."""
    pairs = list(zip(vms, series, strict=True))
    for window in range(windows):
        for vm, into in pairs if window % 2 else pairs[::-1]:
            vm.qmp.execute("cont")
            into.samples.append(rate(vm))
            vm.qmp.execute("stop")
        done(before + window + 1)


def free_window(vm: Vm) -> float:
    """Return the MB/s of a second without tracking."""
    time.sleep(0.2)
    return vm.rates(1.0, 1)[0]


def _limited_window(vm: Vm, limit: int) -> float:
    """Return the MB/s of a second under a limit that has settled."""
    vm.qmp.execute("set-vcpu-dirty-limit", {"cpu-index": 0, "dirty-rate": limit})
    time.sleep(SETTLE_S)
    rate = vm.rates(1.0, 1)[0]
    vm.qmp.execute("cancel-vcpu-dirty-limit", {"cpu-index": 0})
    return rate


def tracked_window(vm: Vm) -> float:
    """Return the MB/s of a second in which the server tracks, since it measures the dirty rate.

    Raises:
        VmError: The server's measurement does not end in time.
    """
    vm.qmp.execute("calc-dirty-rate", {"calc-time": 2, "mode": "dirty-ring"})
    time.sleep(0.5)
    rate = vm.rates(1.0, 1)[0]
    deadline = time.monotonic() + MEASURED_S
    while vm.qmp.execute("query-dirty-rate")["status"] != "measured":
        if time.monotonic() > deadline:
            raise VmError(f"waited {MEASURED_S:.0f} s for the measurement")
        time.sleep(0.02)
    return rate
