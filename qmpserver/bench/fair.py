"""Measure the cost of a limit to guests that should not feel it, in windows of a second, in turn.

Each row compares two machines, or one machine in two states: a vCPU beside a limited one with the
same vCPU alone, both tracked; a machine without limit or measurement with one that has no ring;
a guest that stays within its limit, since its working set is small, with the same guest untracked;
a tracked guest without a limit with the same guest in QEMU, where that is installed.

With --server or --qmp, each row compares one server's vCPU 0 beside a limited vCPU 1 with the same
vCPU beside a free one, both tracked.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpserver.bench.command_line import has_qemu
from qmpserver.bench.guest import free_window, tracked_window
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import add_servers, enter, launched, ours, qemu
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from qmpserver.bench.vm import Vm

    Window = Callable[[], float]  # MB/s of vCPU 0 in one window

LIMIT = 100  # MB/s
HOLD_S = 0.5  # a limit has taken effect by then
SMALL = "4M"  # a working set that stays below the limit: each page counts once a second


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--windows", type=at_least(1), default=20, help="of each (%(default)s)")
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    with ExitStack() as stack:
        named = enter(stack, launched(args, []), servers(args), 2)
        rows = [_beside(vm) for vm in named] or _rows(stack, args)
        done = stack.enter_context(progress("fair", len(rows) * args.windows))
        series = []
        for row, (what, reference, measured) in enumerate(rows):
            pair = [Series("reference", what), Series("measured", what)]
            series += pair
            both = list(zip((reference, measured), pair, strict=True))
            for number in range(args.windows):
                for window, into in both if number % 2 else both[::-1]:
                    into.samples.append(window())
                done(row * args.windows + number + 1)
    show = ("median", "min", "max")
    title = "MB/s that a vCPU stores to"
    return give(args, Result("fair", title, "MB/s", series, show=show, digits=0, paired=True))


def _beside(vm: Vm) -> tuple[str, Window, Window]:
    """Return the row of one server."""
    return (
        f"beside a limited vCPU : a free one, {vm.name}",
        _of(tracked_window, vm),
        _limited(vm, 1),
    )


def _rows(stack: ExitStack, args: argparse.Namespace) -> list[tuple[str, Window, Window]]:
    """Launch the machines; return the name, the reference and the measured windows of each row."""
    usual = ours(args)
    with_qemu = has_qemu() and args.accel == "kvm"
    candidates = [
        usual,
        replace(usual, name="without a ring", accel=args.accel),
        replace(usual, name="two vCPUs", command=f"{usual.command} -smp 2"),
        replace(usual, name="small", command=f"{usual.command} -guest dirty,size={SMALL}"),
        *([qemu(args)] if with_qemu else []),
    ]
    one, ringless, two, small, *peer = enter(stack, candidates, [], 1)
    rows = [
        ("beside a limited vCPU : alone", _of(tracked_window, one), _limited(two, 1)),
        ("no limit : no ring", _of(free_window, ringless), _of(free_window, one)),
        ("within its limit : untracked", _of(free_window, small), _limited(small, 0)),
    ]
    rows += [
        ("tracked : tracked in QEMU", _of(tracked_window, vm), _of(tracked_window, one))
        for vm in peer
    ]
    return rows


def _of(rate: Callable[[Vm], float], vm: Vm) -> Window:
    def window() -> float:
        with vm.running():
            return rate(vm)

    return window


def _limited(vm: Vm, cpu_index: int) -> Window:
    """Return a window in which that vCPU is limited."""

    @contextmanager
    def limited() -> Iterator[None]:
        vm.qmp.execute("set-vcpu-dirty-limit", {"cpu-index": cpu_index, "dirty-rate": LIMIT})
        try:
            yield
        finally:
            vm.qmp.execute("cancel-vcpu-dirty-limit", {"cpu-index": cpu_index})

    def window() -> float:
        with vm.running(), limited():
            time.sleep(HOLD_S)
            return vm.rates(1.0, 1)[0]

    return window
