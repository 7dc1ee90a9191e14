"""Measure how fast throttled vCPUs are released: by cancel, a raised limit, cont, stop, and quit.

Each time vCPU 0 is limited until it is throttled and stands still. Then the command is sent. A
guest runs again when its own counter moves; it stands still when stop has been answered and the
counter has stopped; quit has ended when the process has gone. After cont the limit is still in
force, so the vCPU stays throttled for the rest of its time.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qmpserver.bench.cancel import LOOK_S, resume, throttled
from qmpserver.bench.launch import launch
from qmpserver.bench.report import Result, Series, add_output, give, progress
from qmpserver.bench.scheduling import real_time
from qmpserver.bench.servers import add_servers, enter, launched, ours
from qmpserver.bench.vm import VmError
from qmpserver.qmp.client import encode
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from qmpserver.bench.servers import Candidate
    from qmpserver.bench.vm import Vm

LIMIT = 1  # MB/s: its pauses are longer than it takes to see that a guest stands still
RAISED = 400  # MB/s
STILL_S = 0.005  # how long a stopped guest is watched
GONE_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--cycles", type=at_least(1), default=100, help="of each (%(default)s)")
    parser.add_argument(
        "--quits", type=at_least(1), default=10, help="how often a server is launched (%(default)s)"
    )
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    candidates = launched(args, [ours(args)])
    hows: dict[str, Callable[[Vm], float]] = {
        "cancel: the guest runs again": _cancel,
        f"limit raised to {RAISED} MB/s: the guest runs again": _raise,
        "cont after stop: the guest runs again": _cont,
        "stop: the guest stands still": _stop,
    }
    quit_ = "quit: the process has gone"
    with ExitStack() as stack:
        vms = enter(stack, candidates, servers(args), 1)
        took = {(how, vm.name): Series(vm.name, how) for how in (*hows, quit_) for vm in vms}
        done = stack.enter_context(progress("release", args.cycles + args.quits))
        stack.enter_context(real_time())
        for cycle in range(args.cycles):
            for vm in vms:
                for how, measure in hows.items():
                    with vm.running():
                        _throttle(vm)
                        took[how, vm.name].samples.append(measure(vm))
            done(cycle + 1)
        for cycle in range(args.quits):
            for candidate, vm in zip(candidates, vms, strict=False):
                took[quit_, vm.name].samples.append(_quit(candidate))
            done(args.cycles + cycle + 1)
    title = "ms from the request, vCPU throttled"
    return give(args, Result("release", title, "ms", list(took.values()), paired=True))


def _throttle(vm: Vm) -> None:
    vm.qmp.execute("set-vcpu-dirty-limit", {"cpu-index": 0, "dirty-rate": LIMIT})
    throttled(vm)


def _ms(start: int, _ack: int, end: int) -> float:
    return (end - start) / 1e6


def _cancel(vm: Vm) -> float:
    return _ms(*resume(vm, "cancel-vcpu-dirty-limit"))


def _raise(vm: Vm) -> float:
    return _ms(*resume(vm, "set-vcpu-dirty-limit", {"cpu-index": 0, "dirty-rate": RAISED}))


def _cont(vm: Vm) -> float:
    vm.qmp.execute("stop")
    return _ms(*resume(vm, "cont"))


def _stop(vm: Vm) -> float:
    request = encode("stop")
    start = time.monotonic_ns()
    vm.qmp.send(request)
    vm.qmp.receive("stop")
    still, pages = vm.qmp.received, vm.progress(0)
    until = time.monotonic() + STILL_S
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        if vm.progress(0) != pages:
            still, pages = time.monotonic_ns(), vm.progress(0)
    return (still - start) / 1e6


def _quit(candidate: Candidate) -> float:
    """Launch another server, and return the ms from `quit` to its end."""
    with launch(candidate.command, vcpus=1, accel=candidate.accel) as vm:
        _throttle(vm)
        pidfd = os.pidfd_open(vm.pid)
        try:
            request = encode("quit")
            start = time.monotonic_ns()
            vm.qmp.send(request)
            if not select.select([pidfd], [], [], GONE_S)[0]:
                raise VmError(f"{candidate.name}: quit, and still there after {GONE_S:.0f} s")
            return (time.monotonic_ns() - start) / 1e6
        finally:
            os.close(pidfd)
