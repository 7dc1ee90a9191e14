"""Limit a vCPU, wait until it is throttled, cancel, and time the effects, again and again.

By default this measures this server's event-driven reaper and its polling reaper. The limited
guest's own counters show when it runs again. The server reports when the reaper woke; with
--strace, strace on the reaper's thread shows it too.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpserver.bench import floor
from qmpserver.bench.qmp import flooding
from qmpserver.bench.report import STATISTICS, Result, Series, add_output, give, progress
from qmpserver.bench.scheduling import real_time
from qmpserver.bench.servers import add_servers, enter, launched, ours
from qmpserver.bench.strace import trace
from qmpserver.bench.vm import VmError
from qmpserver.qmp.client import encode
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.bench.vm import Vm

    WakeAfter = Callable[[float], float | None]

LIMIT = 10  # MB/s: a guest at full speed is throttled nearly all the time
NEVER_S = 10.0
LOOK_S = 100e-6  # looking more often leaves the guest hardly any processor time
SPREAD_S = 0.03
POLL_S = 1.0

ACK = "to the ack"
WAKE = "to the reaper's wake"
TRACED = "to the reaper's wake, by strace"
RESUME = "to the throttled vCPU running again"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--cycles", type=at_least(1), default=200, help="how often (%(default)s)")
    parser.add_argument(
        "--busy", action="store_true", help="with a second vCPU that runs at full speed"
    )
    parser.add_argument(
        "--flood",
        type=at_least(0),
        default=0,
        metavar="N",
        help="while N clients send commands at full speed",
    )
    parser.add_argument("--strace", action="store_true", help="observe the reaper's wakes too")
    add_servers(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    usual = [
        ours(args, "event-driven reaper", "reaper=event"),
        ours(args, "polling reaper", "reaper=poll"),
    ]
    vcpus = 2 if args.busy else 1
    with ExitStack() as stack:
        candidates = launched(args, usual)
        floods: list[list[str]] = [[] for _ in candidates]
        if args.flood:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="qmpctl-"))
            for index, candidate in enumerate(candidates):
                floods[index] = [f"{directory}/{index}.{n}" for n in range(args.flood)]
                more = " ".join(f"-qmp unix:{path},server=on,wait=off" for path in floods[index])
                candidates[index] = replace(candidate, command=f"{candidate.command} {more}")
        vms = enter(stack, candidates, servers(args), vcpus)
        for vm, paths in zip(vms, floods, strict=False):
            if paths:
                vm.load = stack.enter_context(flooding(paths))
        done = stack.enter_context(progress("cancel", args.cycles))
        result = measure(vms, args.cycles, strace=args.strace, progress=done)
    if args.busy:
        result.notes.append(_beside_a_ping(args, result))
    return give(args, result)


def measure(
    vms: Sequence[Vm],
    cycles: int,
    *,
    strace: bool = False,
    progress: Callable[[int], None] = lambda _cycle: None,
) -> Result:
    """Time `cycles` cycles on each of `vms`, in turn; they are stopped before and after.

    With `strace` the reaper's wakes are observed from outside too; that adds to the times measured.
    """
    whats = (ACK, WAKE, TRACED, RESUME)
    samples = [{what: Series(vm.name, what) for what in whats} for vm in vms]
    with ExitStack() as stack:
        traces = [stack.enter_context(trace(vm.pid)) if strace else None for vm in vms]
        polls = [vm.polls() for vm in vms]
        stack.enter_context(real_time())
        for cycle in range(cycles):
            for vm, into, wake_after, poll in zip(vms, samples, traces, polls, strict=True):
                with vm.running():
                    took = _cycle(vm, POLL_S if poll else SPREAD_S, wake_after)
                for what, ms in took.items():
                    into[what].samples.append(ms)
            progress(cycle + 1)
    series = [one[what] for what in whats for one in samples]
    return Result("cancel", "ms from cancel's request", "ms", series, paired=True)


def _cycle(vm: Vm, spread: float, wake_after: WakeAfter | None) -> dict[str, float]:
    """Limit vCPU 0, wait until it is throttled, cancel; return the milliseconds.

    Cancels are spread over `spread` seconds, to meet a polling reaper at any moment of its sleep.
    """
    took = {}
    vm.qmp.execute("set-vcpu-dirty-limit", {"cpu-index": 0, "dirty-rate": LIMIT})
    time.sleep(random.uniform(0, spread))
    throttled(vm)
    wall = time.time()
    start, ack, resumed = resume(vm, "cancel-vcpu-dirty-limit", {"cpu-index": 0})
    took[RESUME] = (resumed - start) / 1e6
    took[ACK] = (ack - start) / 1e6
    woke: int = 0

    def idle_wake() -> bool:
        nonlocal woke
        woke = vm.dirty_ring()["reaper"]["last-idle-wake-time"]
        return woke > start  # from a clock that all processes share

    reports = vm.dirty_ring() is not None
    if reports:
        _until("the reaper's wake", idle_wake, 0.002)
        took[WAKE] = (woke - start) / 1e6
    if wake_after is not None:
        # While the limit is in service, QEMU's reaper wakes and sleeps again: that does not count.
        answered = 0.0 if reports else (ack - start) / 1e9
        seen = wake_after(wall + answered)
        if seen is None:
            raise VmError("strace did not see the reaper wake")
        took[TRACED] = (seen + answered) * 1e3
    return took


def resume(
    vm: Vm, command: str, arguments: Mapping[str, object] | None = None
) -> tuple[int, int, int]:
    """Send a command that lets the guest of vCPU 0 run again.

    Returns:
        When it was sent, when it was answered, and when the guest was seen to run:
        CLOCK_MONOTONIC, ns.
    """
    request = encode(command, arguments)
    before = vm.progress(0)
    start = time.monotonic_ns()
    vm.qmp.send(request)
    vm.qmp.receive(command)
    # Looking before the answer has come would take processor time from the server that is to send
    # it. A guest that ran earlier therefore counts as running again now.
    _until("the guest to run again", lambda: vm.progress(0) != before, LOOK_S)
    return start, vm.qmp.received, time.monotonic_ns()


def throttled(vm: Vm) -> None:
    """Wait until the guest on vCPU 0 stands still.

    Raises:
        VmError: It does not in time.
    """

    def still() -> bool:
        before = vm.progress(0)
        time.sleep(0.002)
        return vm.progress(0) == before

    _until("the limit to take hold", still, 0.001)


def _until(what: str, condition: Callable[[], bool], pause: float) -> None:
    deadline = time.monotonic() + NEVER_S
    while not condition():
        if time.monotonic() > deadline:
            raise VmError(f"waited {NEVER_S:.0f} s for {what}")
        time.sleep(pause)


def _beside_a_ping(args: argparse.Namespace, result: Result) -> str:
    """Return a note that compares the first server's wake with a bare wake under the same load."""
    pings = floor.eventfd_ping_under_load(args, args.cycles)
    wake = next((s.samples for s in result.series if s.what == WAKE and s.samples), None)
    show = [STATISTICS[name] for name in result.show]
    text = " / ".join(f"{of(pings):.3f}" for of in show)
    note = f"bare eventfd ping under the same load, in ms: {text}"
    if wake is not None:
        ratios = " / ".join(f"{of(wake) / of(pings):.2f}" for of in show)
        note += f"\nthe reaper's wake as a ratio to it: {ratios}"
    return note
