"""How well a limit holds, from the third second after the command on, by the guests' counters."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.tools.address import servers
from qmpserver.tools.bench.report import Result, Series, add_output, give
from qmpserver.tools.bench.servers import add_servers, enter, launched, ours

if TYPE_CHECKING:
    import argparse

SETTLED_S = 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--limit", type=int, default=100, help="MB/s (%(default)s)")
    parser.add_argument("--vcpus", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    series = []
    with ExitStack() as stack:
        for vm in enter(stack, launched(args, [ours(args)]), servers(args), args.vcpus):
            vm.qmp.execute("cont")
            vm.qmp.execute("set-vcpu-dirty-limit", {"dirty-rate": args.limit})
            time.sleep(SETTLED_S)
            rates = vm.rates(args.seconds, args.vcpus)
            vm.qmp.execute("cancel-vcpu-dirty-limit")
            vm.qmp.execute("stop")
            for index, rate in enumerate(rates):
                series.append(Series(vm.name, f"vCPU {index}: MB/s", [rate]))
                error = (rate / args.limit - 1) * 100
                series.append(Series(vm.name, f"vCPU {index}: error in %", [error]))
    title = f"limit of {args.limit} MB/s"
    return give(args, Result("limit", title, "MB/s", series, show=("mean",), digits=2))
