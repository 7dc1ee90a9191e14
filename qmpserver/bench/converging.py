"""One migration of a busy guest, by one way to converge, seen from outside.

Times and rates are those of the guest's own counters. Only `remaining`, the limits and the bytes
sent are as the server tells them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qmpserver.bench.launch import launch
from qmpserver.bench.pause import Pause
from qmpserver.bench.vm import VmError
from qmpserver.migration.extensions import FORECAST, LATE, TOTAL_TIME
from qmpserver.tools.errors import RefusedError, sensible
from qmpserver.tools.figures import MIB, read_figures
from qmpserver.tools.migration import Migration
from qmpserver.tools.qemu_limiter import FREE
from qmpserver.tools.steering import Steering
from qmpserver.vm.machine.guest import PATTERNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.bench.servers import Candidate
    from qmpserver.bench.vm import Vm
    from qmpserver.bench.ways import Way
    from qmpserver.tools.figures import Figures

BEFORE_S = 0.5  # of the guest's speed before the migration
PAGES_PER_MB = MIB // mmap.PAGESIZE


class MissingError(VmError):
    """The server does not have a capability that the way needs; the text says which."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change under way: `what` is "bandwidth" or "rate", `value` in MB/s, `at` in seconds."""

    what: str
    value: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The guest, the link and the goal of a migration.

    Attributes:
        ram: Bytes of RAM.
        data: Bytes that the guest has filled before it moves, all vCPUs together.
        working_set: Bytes of these that it goes on to store to; 0: all.
        vcpus: The number of vCPUs.
        pattern: The order of the stores: one of `PATTERNS`.
        rate: MB/s of each vCPU; 0: full speed.
        light: MB/s of the last vCPU; 0: as the others.
        bandwidth: MB/s of the link.
        within: Seconds until the end, pause included: the goal.
        pause: Seconds of pause that are allowed.
        give_up: Seconds after which a migration is cancelled.
        changes: Of the link and the guest, under way.
    """

    ram: int = 512 * MIB
    data: int = 256 * MIB
    working_set: int = 0
    vcpus: int = 1
    pattern: str = "sequential"
    rate: float = 0.0
    light: float = 0.0
    bandwidth: float = 128.0
    within: float = 5.0
    pause: float = 0.3
    give_up: float = 40.0
    changes: tuple[Change, ...] = ()

    def bound(self, total: float) -> float:
        """Return the MB/s that the guest may add at most if all takes so many seconds."""
        rest = self.bandwidth * self.pause
        return self.bandwidth - (self.data / MIB - rest) / total


@dataclass(frozen=True, slots=True)
class Moment:
    """A migration at one moment.

    Attributes:
        seconds: Since the command.
        remaining: MB, as the server tells.
        limits: MB/s of each vCPU; 0: none that slows it.
        throttle: The percentage of time that is taken from all vCPUs.
        allowed: `downtime-limit`, in seconds.
        pages: The stores of each vCPU since the command, by its counter.
    """

    seconds: float
    remaining: float
    limits: tuple[int, ...]
    throttle: int
    allowed: float
    pages: tuple[int, ...]


@dataclass(slots=True)
class Run:
    """The course and the end of a migration; times in seconds, from the command on.

    Attributes:
        status: "completed", "never" if it was cancelled after `give_up`, or "given up" if the
            policy cancelled it.
        live: The live phase: until the guest stopped, or it was cancelled.
        total: Until the guest ran at the destination; None if it did not complete.
        pause: For which its counters stood still; None if it did not complete.
        events: From STOP to RESUME by the clocks of both servers; None if it did not complete.
        sent: MB.
        before: MB/s that each vCPU stored to before the migration.
        wrote: MB/s that each vCPU stored to in the live phase.
        limited: Whether a limit of a vCPU, or a throttle, was seen.
        possible: The answer of the server's forecast; None if it was not asked.
        told: When the server told that it cannot keep the promise; None: it did not.
        changed: When the last change was made; None: there was none.
        course: The live phase.
    """

    status: str
    live: float
    total: float | None
    pause: float | None
    events: float | None
    sent: float
    before: Sequence[float]
    wrote: Sequence[float]
    limited: bool
    possible: bool | None = None
    told: float | None = None
    changed: float | None = None
    course: list[Moment] = field(default_factory=list)


def converge(server: Candidate, way: Way, conditions: Conditions) -> Run:
    """Migrate a fresh guest to another process of the server.

    Raises:
        MissingError: The server is too old for this way.
        VmError: A machine does not start, the guest does not run, or the migration fails.
        QmpctlError: A server refuses.
        ServerError: A server has gone, or makes no sense.
        UsageError: The server's command makes no sense.
    """
    pages = conditions.data // mmap.PAGESIZE // conditions.vcpus
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(
                launch(
                    server.command + waits,
                    vcpus=conditions.vcpus,
                    accel=server.accel,
                    name=server.name,
                    ram=f"{conditions.ram}B",
                    guest={"pages": str(pages)},
                )
            )
            for waits in ("", " -incoming defer")
        )
        _check_capabilities(here, way)
        guest = _Guest(here, conditions, pages)
        here.wait_stores(pages, conditions.vcpus)
        guest.set_rate(conditions.rate)
        before = tuple(here.rates(BEFORE_S, conditions.vcpus))
        migration = stack.enter_context(Migration(here.qmp, there.qmp))
        itself = way.promises and _keeps_promises(here)
        parameters: dict[str, object] = {
            "max-bandwidth": round(conditions.bandwidth * MIB),
            "downtime-limit": round(conditions.pause * 1000),
            **way.parameters,
        }
        if itself:
            parameters[TOTAL_TIME] = round(conditions.within * 1000)
        migration.prepare(way.capabilities, parameters)
        possible = _forecast(here) if itself else None
        steering = None
        if way.policy is not None and not itself:
            steering = Steering(
                migration.source,
                way.policy(),
                total_time=conditions.within if way.promises else 0.0,
                downtime_limit=way.longest or conditions.pause,
            )
            stack.enter_context(steering)
        watch = stack.enter_context(_Watch(guest, steering))
        pause = stack.enter_context(Pause(here, there, conditions.vcpus))
        watch.start()
        migration.start()
        outcome = migration.follow(watch.look, watch.interrupt)
        if outcome.status == "failed":
            raise VmError(f"{server.name}: the migration failed: {outcome.error}")
        felt = total = events = None
        if outcome.status == "completed":
            status = "completed"
            with sensible(here.name, "query-migrate"):
                watch.sent = read_figures(outcome.source).sent / MIB
            felt = pause.ms() / 1e3
            total = pause.resumed_at / 1e9 - watch.started
            events = None if outcome.pause is None else outcome.pause / 1e3
            watch.end(pause.stopped_at / 1e9)
        else:
            watch.end(time.monotonic())
            status = "never" if watch.is_over else "given up"
        last = watch.course[-1]
        return Run(
            status=status,
            live=last.seconds,
            total=total,
            pause=felt,
            events=events,
            sent=watch.sent,
            before=before,
            wrote=tuple(count / PAGES_PER_MB / last.seconds for count in last.pages),
            limited=any(any(moment.limits) or moment.throttle for moment in watch.course),
            possible=possible,
            told=watch.told,
            changed=watch.changed,
            course=watch.course,
        )


class _Guest:
    """A guest that fills its memory and then stores to it as the conditions say."""

    def __init__(self, vm: Vm, conditions: Conditions, pages: int) -> None:
        self.vm = vm
        self.conditions = conditions
        self._pages = pages  # of each vCPU
        self._hz = vm.clock_hz()

    def set_rate(self, rate: float) -> None:
        """Have each vCPU store to so many MB/s, 0 for full speed, except the light one."""
        conditions = self.conditions
        size = conditions.working_set // mmap.PAGESIZE // conditions.vcpus or self._pages
        for index in range(conditions.vcpus):
            is_light = conditions.light and index == conditions.vcpus - 1
            wanted = conditions.light if is_light else rate
            interval = max(1, round(self._hz / (wanted * PAGES_PER_MB))) if wanted else 0
            self.vm.pace(index, size, interval, PATTERNS[conditions.pattern])

    def progress(self) -> tuple[int, ...]:
        """Return the stores of each vCPU since its start."""
        return tuple(self.vm.progress(index) for index in range(self.conditions.vcpus))


class _Watch:
    """Looks at a migration, makes the changes under way, and ends one that takes too long.

    Attributes:
        started: The time of the command, in seconds of CLOCK_MONOTONIC.
        course: One moment for each look since RAM has been sent.
        sent: MB, at the last look; an answer after a cancel does not tell.
        told: When the server told that the promise cannot be kept.
        changed: When the last change was made.
        is_over: Whether the time until `give_up` is over.
        interrupt: A descriptor that becomes readable then.
    """

    def __init__(self, guest: _Guest, steering: Steering | None) -> None:
        self.started = 0.0
        self.course: list[Moment] = []
        self.sent = 0.0
        self.told: float | None = None
        self.changed: float | None = None
        self.is_over = False
        self._guest = guest
        self._qmp = guest.vm.qmp
        self._steering = steering
        self._changes = sorted(guest.conditions.changes, key=lambda change: change.at)
        self._base: tuple[int, ...] = ()
        self._followed = self._qmp.on_event
        self._qmp.on_event = self._event

    def __enter__(self) -> _Watch:
        self.interrupt = os.eventfd(0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.interrupt)

    def start(self) -> None:
        """Note the beginning: the command comes next."""
        self._base = self._guest.progress()
        self.started = time.monotonic()

    def look(self, figures: Figures) -> None:
        """Note the present moment, and do whatever is due."""
        if self._steering is not None:
            self._steering.look(figures)
        self.sent = max(self.sent, figures.sent / MIB)
        info = self._qmp.execute("query-migrate")
        limits = [0] * len(self._base)
        with contextlib.suppress(RefusedError), sensible(self._qmp.address, "a query"):
            for limit in self._qmp.execute("query-vcpu-dirty-limit"):
                number = int(limit["limit-rate"])
                limits[limit["cpu-index"]] = 0 if number >= FREE else number
        with sensible(self._qmp.address, "a query"):
            allowed = self._qmp.execute("query-migrate-parameters")["downtime-limit"] / 1e3
            throttle = int(info.get("cpu-throttle-percentage", 0))
        now = time.monotonic()
        if figures.total:  # RAM is being sent
            self._note(now, figures.remaining / MIB, limits, throttle, allowed)
        seconds = now - self.started
        while self._changes and self._changes[0].at <= seconds:
            self._make(self._changes.pop(0))
        if seconds >= self._guest.conditions.give_up and not self.is_over:
            self.is_over = True
            os.eventfd_write(self.interrupt, 1)

    def end(self, stopped: float) -> None:
        """Note the moment in which the live phase ended, as the last one."""
        self.course = [m for m in self.course if m.seconds < stopped - self.started]
        if self.course:
            last = self.course[-1]
            self._note(stopped, last.remaining, last.limits, last.throttle, last.allowed)
        else:  # sooner than the first look
            self._note(stopped, 0.0, [0] * len(self._base), 0, 0.0)

    def _note(
        self, now: float, remaining: float, limits: Sequence[int], throttle: int, allowed: float
    ) -> None:
        progress = self._guest.progress()
        pages = tuple(count - base for count, base in zip(progress, self._base, strict=True))
        seconds = now - self.started
        self.course.append(Moment(seconds, remaining, tuple(limits), throttle, allowed, pages))

    def _make(self, change: Change) -> None:
        if change.what == "bandwidth":
            arguments = {"max-bandwidth": round(change.value * MIB)}
            self._qmp.execute("migrate-set-parameters", arguments)
        else:
            self._guest.set_rate(change.value)
        self.changed = time.monotonic() - self.started

    def _event(self, event: dict[str, Any]) -> None:
        if self._followed is not None:
            self._followed(event)
        if event["event"] == LATE and self.told is None:
            self.told = time.monotonic() - self.started


def _check_capabilities(vm: Vm, way: Way) -> None:
    with sensible(vm.name, "query-migrate-capabilities"):
        known = {one["capability"] for one in vm.qmp.execute("query-migrate-capabilities")}
    for name in way.capabilities:
        if name not in known:
            raise MissingError(f"{vm.name} does not have the capability {name}")


def _keeps_promises(vm: Vm) -> bool:
    with sensible(vm.name, "query-migrate-parameters"):
        return TOTAL_TIME in dict(vm.qmp.execute("query-migrate-parameters"))


def _forecast(vm: Vm) -> bool | None:
    """Return whether the server expects to keep its promise; None if it does not tell."""
    if FORECAST not in vm.commands:
        return None
    with sensible(vm.name, FORECAST):
        return bool(vm.qmp.execute(FORECAST)["possible"])
