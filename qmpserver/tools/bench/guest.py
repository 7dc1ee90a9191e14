"""How fast a guest dirties memory while it is tracked: this server and QEMU in turn."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.tools.address import servers
from qmpserver.tools.bench.report import Result, Series, add_output, give, progress
from qmpserver.tools.bench.servers import add_servers, enter, launched, ours, qemu
from qmpserver.tools.vm import VmError

if TYPE_CHECKING:
    import argparse

    from qmpserver.tools.vm import Vm

MEASURED_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--windows", type=int, default=20, help="of a second (%(default)s)")
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    with ExitStack() as stack:
        vms = enter(stack, launched(args, [qemu(args), ours(args)]), servers(args), 1)
        series = [Series(vm.name, "tracked") for vm in vms]
        done = stack.enter_context(progress("guest", args.windows))
        for window in range(args.windows):
            pairs = list(zip(vms, series, strict=True))
            for vm, into in pairs if window % 2 else pairs[::-1]:
                into.samples.append(_tracked_window(vm))
            done(window + 1)
    show = ("median", "min", "max")
    title = "MB/s that one vCPU dirties"
    return give(args, Result("guest", title, "MB/s", series, show=show, digits=0, paired=True))


def _tracked_window(vm: Vm) -> float:
    """A second in the middle of a measurement by the server, which is what switches tracking on."""
    vm.qmp.execute("cont")
    vm.qmp.execute("calc-dirty-rate", {"calc-time": 2, "mode": "dirty-ring"})
    time.sleep(0.5)
    rate = vm.rates(1.0, 1)[0]
    deadline = time.monotonic() + MEASURED_S
    while vm.qmp.execute("query-dirty-rate")["status"] != "measured":
        if time.monotonic() > deadline:
            raise VmError(f"waited {MEASURED_S:.0f} s for the measurement")
        time.sleep(0.02)
    vm.qmp.execute("stop")
    return rate
