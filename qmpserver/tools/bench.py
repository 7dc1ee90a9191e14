"""Measurements of dirty limit and reaper, on this server and on QEMU alike.

Times are taken with CLOCK_MONOTONIC, and begin with the request: what a client waits for counts.
"""

from __future__ import annotations

import os
import random
import select
import statistics
import struct
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpserver.tools.strace import trace
from qmpserver.tools.vm import Vm, VmError, encode, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    WakeAfter = Callable[[float], float | None]

LIMIT = 10  # MB/s: a guest at full speed is throttled nearly all the time
NEVER_S = 10.0
LOOK_S = 100e-6  # more often, and the guest that is looked for hardly gets to run
WARM_S = 2.0  # until all of the guest's memory has been touched once


@dataclass(slots=True)
class CancelSamples:
    """Milliseconds from cancel's request, one of each a cycle."""

    ack: list[float] = field(default_factory=list)
    wake: list[float] = field(default_factory=list)  # empty where the server doesn't tell
    resume: list[float] = field(default_factory=list)
    traced: list[float] = field(default_factory=list)  # the wake again, seen from outside


def _until(what: str, condition: Callable[[], bool], pause: float) -> None:
    deadline = time.monotonic() + NEVER_S
    while not condition():
        if time.monotonic() > deadline:
            raise VmError(f"waited {NEVER_S:.0f} s for {what}")
        time.sleep(pause)


@contextmanager
def _real_time() -> Iterator[None]:
    """Where permitted, look without having to wait for a processor that the guest has."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _throttled(vm: Vm) -> None:
    """Wait until the guest on vCPU 0 stands still."""

    def still() -> bool:
        before = vm.progress(0)
        time.sleep(0.002)
        return vm.progress(0) == before

    _until("the limit to take hold", still, 0.001)


def cancel_cycle(
    vm: Vm, samples: CancelSamples, *, spread: float, wake_after: WakeAfter | None = None
) -> None:
    """Limit vCPU 0, wait until it is throttled, cancel, and time what follows.

    `spread` is the time in seconds over which cancels are spread, so that they meet a polling
    reaper at any moment of its sleep.
    """
    vm.qmp.execute("set-vcpu-dirty-limit", {"cpu-index": 0, "dirty-rate": LIMIT})
    time.sleep(random.uniform(0, spread))
    _throttled(vm)
    request = encode("cancel-vcpu-dirty-limit", {"cpu-index": 0})
    before = vm.progress(0)
    wall, start = time.time(), time.monotonic_ns()
    vm.qmp.send(request)
    vm.qmp.receive()
    ack = vm.qmp.received
    # Looking before the answer has come would take processor time from who is to send it. So a
    # guest that ran earlier counts as running again now.
    _until("the guest to run again", lambda: vm.progress(0) != before, LOOK_S)
    resumed = time.monotonic_ns()
    samples.ack.append((ack - start) / 1e6)
    samples.resume.append((resumed - start) / 1e6)
    woke: int = 0

    def idle_wake() -> bool:
        nonlocal woke
        woke = vm.dirty_ring()["reaper"]["last-idle-wake-time"]
        return woke > start  # from a clock that all processes share

    if vm.dirty_ring() is not None:
        _until("the reaper's wake", idle_wake, 0.002)
        samples.wake.append((woke - start) / 1e6)
    if wake_after is not None:
        # QEMU's reaper turns over in its sleep while the limit is in service: that is no wake yet.
        answered = (ack - start) / 1e9 if vm.kind == "qemu" else 0.0
        seen = wake_after(wall + answered)
        if seen is None:
            raise VmError("strace does not see the reaper wake")
        samples.traced.append((seen + answered) * 1e3)


def cancel(
    accels: Sequence[str],
    cycles: int,
    *,
    busy: bool = False,
    strace: bool = False,
    qemu: str | None = None,
    progress: Callable[[int], None] = lambda _cycle: None,
) -> list[CancelSamples]:
    """Time `cycles` cycles on a machine for each of `accels`, in turn; then on QEMU's accel `qemu`.

    Machines that wait for their turn are stopped. `busy`: two vCPUs, the second always unlimited.
    `strace`: look at the reaper's wakes from outside too, which costs some of the time it measures.
    """
    vcpus = 2 if busy else 1
    with ExitStack() as stack:
        vms = [stack.enter_context(launch("qmpserver", vcpus=vcpus, accel=a)) for a in accels]
        if qemu is not None:
            vms.append(stack.enter_context(launch("qemu", vcpus=vcpus, accel=qemu)))
        for vm in vms:
            vm.rates(WARM_S, vcpus)
            vm.qmp.execute("stop")
        samples = [CancelSamples() for _ in vms]
        traces = [stack.enter_context(trace(vm.pid)) if strace else None for vm in vms]
        stack.enter_context(_real_time())
        for cycle in range(cycles):
            for vm, into, wake_after in zip(vms, samples, traces, strict=True):
                vm.qmp.execute("cont")
                polls = vm.kind == "qemu" or vm.dirty_ring()["mode"] == "poll"
                cancel_cycle(vm, into, spread=1.0 if polls else 0.03, wake_after=wake_after)
                vm.qmp.execute("stop")
            progress(cycle + 1)
    return samples


def limit(accel: str, mb_per_s: int, vcpus: int, seconds: float) -> list[float]:
    """MB/s of each vCPU from the third second after the command on, by the guest's counters."""
    with launch("qmpserver", vcpus=vcpus, accel=accel) as vm:
        vm.rates(WARM_S, vcpus)
        vm.qmp.execute("set-vcpu-dirty-limit", {"dirty-rate": mb_per_s})
        time.sleep(2)
        return vm.rates(seconds, vcpus)


def tracked_speed(accel: str, windows: int) -> tuple[list[float], list[float]]:
    """MB/s that one tracked vCPU's guest dirties, here and on QEMU: `windows` pairs, in turn."""
    with (
        launch("qmpserver", vcpus=1, accel=accel) as ours,
        launch("qemu", vcpus=1, accel=accel) as qemu,
    ):
        for vm in (ours, qemu):
            vm.rates(WARM_S, 1)
            vm.qmp.execute("stop")
        rates: dict[str, list[float]] = {"qmpserver": [], "qemu": []}
        for window in range(windows):
            for vm in (ours, qemu) if window % 2 else (qemu, ours):
                rates[vm.kind].append(_tracked_window(vm))
    return rates["qmpserver"], rates["qemu"]


def _tracked_window(vm: Vm) -> float:
    """A second in the middle of a measurement by the server, which is what switches tracking on."""
    vm.qmp.execute("cont")
    vm.qmp.execute("calc-dirty-rate", {"calc-time": 2, "mode": "dirty-ring"})
    time.sleep(0.5)
    rate = vm.rates(1.0, 1)[0]
    _until(
        "the measurement",
        lambda: vm.qmp.execute("query-dirty-rate")["status"] == "measured",
        0.02,
    )
    vm.qmp.execute("stop")
    return rate


def eventfd_ping(rounds: int) -> list[float]:
    """Milliseconds from writing an eventfd to another process's return from polling it."""
    kick, back = os.eventfd(0), os.pipe()
    child = os.fork()
    if not child:
        poll = select.poll()
        poll.register(kick, select.POLLIN)
        for _ in range(rounds):
            poll.poll()
            woke = time.monotonic_ns()
            os.eventfd_read(kick)
            os.write(back[1], struct.pack("Q", woke))
        os._exit(0)
    samples = []
    for _ in range(rounds):
        time.sleep(random.uniform(0.005, 0.03))
        start = time.monotonic_ns()
        os.eventfd_write(kick, 1)
        samples.append((struct.unpack("Q", os.read(back[0], 8))[0] - start) / 1e6)
    os.waitpid(child, 0)
    for fd in (kick, *back):
        os.close(fd)
    return samples


def eventfd_ping_under_load(accel: str, rounds: int) -> list[float]:
    """Do the same beside two vCPUs at full speed."""
    with launch("qmpserver", vcpus=2, accel=accel) as vm:
        vm.rates(WARM_S, 2)
        return eventfd_ping(rounds)


def summary(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(samples)
    at_99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return statistics.median(ordered), at_99, ordered[-1]
