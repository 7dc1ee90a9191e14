"""Measure the cost of more vCPUs and RAM: of commands for all vCPUs, dirty logging, harvests.

Each size is a server of its own. Its guest dirties 32 MB/s in all, however many vCPUs share that:
only the number of rings differs. The cost of a page is the reaper's own processor time.
"""

from __future__ import annotations

import argparse
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.bench.launch import launch
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.servers import OURS, ours
from qmpserver.bench.vm import VmError
from qmpserver.qmp.client import encode
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.bench.vm import Vm

RATE = 32
LIMIT = 100_000  # MB/s: no vCPU waits, but all pages are counted
PERIOD_S = 0.001
SWITCH_S = 0.15  # more than switching the log takes
OFF_S = 1.3  # the log is switched off a second after the last limit

START = "start to greeting, ms"
IDLE = "query-status at 1 kHz while nothing else happens, the longest, us"
SET = "set for all: request to ack, us"
CANCEL = "cancel for all: request to ack, us"
ON = "query-status at 1 kHz while the log is switched on, the longest, us"
OFF = "query-status at 1 kHz while the log is switched off, the longest, us"
HARVEST = "the reaper's processor time for a page, ns"


@dataclass(frozen=True, slots=True)
class Size:
    """The number of vCPUs, and the RAM as `-m` takes it."""

    vcpus: int
    ram: str

    def __str__(self) -> str:
        return f"{self.vcpus} vCPU{'s' * (self.vcpus > 1)}, {self.ram}"


def _size(text: str) -> Size:
    match = re.fullmatch(r"([1-9][0-9]*),([0-9]+[MG])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' must be a size such as 32,64G")
    return Size(int(match[1]), match[2])


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="VCPUS,RAM",
        help="size of a machine; repeatable (1,512M 32,512M and 1,64G)",
    )
    parser.add_argument("--cycles", type=at_least(1), default=8, help="how often (%(default)s)")
    parser.add_argument("--accel", choices=("kvm", "soft"), default="kvm")
    parser.add_argument("--ring", type=at_least(1), default=16384, help="ring size (%(default)s)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    sizes = args.size or [Size(1, "512M"), Size(32, "512M"), Size(1, "64G")]
    whats = (START, IDLE, SET, CANCEL, ON, OFF, HARVEST)
    series = [[Series(str(size), what) for size in sizes] for what in whats]
    with ExitStack() as stack:
        vms = []
        for size, start in zip(sizes, series[0], strict=True):
            command = f"{OURS} -S -smp {size.vcpus} -m {size.ram} "
            command += f"-guest dirty,rate={max(1, RATE // size.vcpus)}"
            server = ours(args)
            from_time = time.monotonic()
            vms.append(stack.enter_context(launch(command, vcpus=size.vcpus, accel=server.accel)))
            start.samples.append((time.monotonic() - from_time) * 1e3)
        done = stack.enter_context(progress("scale", args.cycles))
        for cycle in range(args.cycles):
            for index, vm in enumerate(vms):
                with vm.running():
                    for one, sample in zip(series[1:], _cycle(vm), strict=True):
                        one[index].samples.append(sample)
            done(cycle + 1)
    title = f"{args.accel}, ring {args.ring}"
    rows = [one for row in series for one in row]
    return give(args, Result("scale", title, "", rows, show=("median", "max"), digits=0))


def _cycle(vm: Vm) -> list[float]:
    """Set and cancel a limit for all vCPUs; return a sample of each quantity except the start."""
    idle = _longest(vm, SWITCH_S)
    took_set = _timed(vm, encode("set-vcpu-dirty-limit", {"dirty-rate": LIMIT}))
    on = _longest(vm, SWITCH_S)
    pages, spent = _harvested(vm), _reaper_ns(vm)
    time.sleep(2.2)  # two turns of the reaper
    pages, spent = _harvested(vm) - pages, _reaper_ns(vm) - spent
    if not pages:
        raise VmError("the reaper has harvested nothing")
    took_cancel = _timed(vm, encode("cancel-vcpu-dirty-limit"))
    return [idle, took_set, took_cancel, on, _longest(vm, OFF_S), spent / pages]


def _timed(vm: Vm, request: bytes) -> float:
    """Return the microseconds from the request to its answer."""
    start = time.monotonic_ns()
    vm.qmp.send(request)
    vm.qmp.receive()
    return (vm.qmp.received - start) / 1e3


def _longest(vm: Vm, seconds: float) -> float:
    """Send `query-status` every millisecond for `seconds`; return the longest round trip, in us."""
    request = encode("query-status")
    end = time.monotonic() + seconds
    longest = 0.0
    while time.monotonic() < end:
        took = _timed(vm, request)
        longest = max(longest, took)
        time.sleep(max(0.0, PERIOD_S - took / 1e6))
    return longest


def _rings(vm: Vm) -> Sequence[dict[str, int]]:
    rings: Sequence[dict[str, int]] = vm.dirty_ring()["vcpus"]
    return rings


def _harvested(vm: Vm) -> int:
    """Return the pages harvested: by the reaper, since the rings are too large to get full."""
    return sum(ring["pages-harvested"] for ring in _rings(vm))


def _reaper_ns(vm: Vm) -> int:
    """Return the processor time that the reaper's thread has had."""
    thread = vm.dirty_ring()["reaper"]["thread-id"]
    schedstat = Path(f"/proc/{vm.pid}/task/{thread}/schedstat").read_text()
    return int(schedstat.split()[0])
