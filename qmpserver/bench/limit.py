"""Measure how well a limit holds, by the guests' counters; by default with each controller.

One limit is set after the other. For each the table shows, separated by slashes: the error from the
second to the sixth second after the command, the error in the first second, the time after which
the rate stays within 5 %, and the longest time without progress.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from qmpserver.bench.course import PAGES_PER_MB, SECOND, STEADY_S, Course
from qmpserver.bench.report import Result, Series, add_output, give, markdown, progress
from qmpserver.bench.scheduling import real_time
from qmpserver.bench.servers import add_servers, enter, launched, ours
from qmpserver.tools.address import servers
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.bench.vm import Vm

    Held = tuple[str, int, int, Course]  # server, limit, vCPU, course

Order = Literal["rising", "falling", "random"]

LOOK_S = 0.002
FREE_S = 1.5  # between a cancel and the next limit
DEFAULT_LIMITS = (5, 10, 20, 50, 100, 200, 400, 800)

# Seconds from the start, and the limit from then on.
TIMELINE: tuple[tuple[float, int | None], ...] = (
    (0, None),
    (2, 100),
    (12, 400),
    (22, 20),
    (32, None),
)
TIMELINE_END_S = 35
BIN_S = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "--limits",
        type=_limits,
        default=DEFAULT_LIMITS,
        help=f"MB/s ({','.join(map(str, DEFAULT_LIMITS))})",
    )
    add("--order", choices=("rising", "falling", "random"), default="rising")
    add("--cancel", action="store_true", help="cancel each limit before the next")
    add(
        "--vcpus",
        type=at_least(1),
        default=1,
        help="vCPUs 1, 3, ... get the limits in reverse order",
    )
    add(
        "--seconds",
        type=at_least(3, float),
        default=STEADY_S[1],
        help="duration of each limit (%(default)s)",
    )
    add("--timeline", action="store_true", help="show a course over time, no table")
    add_servers(parser)
    add_output(parser)


def _limits(text: str) -> tuple[int, ...]:
    limits = [int(word) for word in text.split(",") if word.isdecimal()]
    if len(limits) != text.count(",") + 1 or min(limits) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' must be a list of limits such as 10,100,400")
    return tuple(limits)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    usual = [ours(args, f"dirty-limit={name}", f"dirty-limit={name}") for name in ("pacer", "qemu")]
    limits = in_order(args.limits, args.order)
    with ExitStack() as stack:
        vms = enter(stack, launched(args, usual), servers(args), args.vcpus)
        stack.enter_context(real_time())
        if args.timeline:
            return give(args, timelines(vms))
        done = stack.enter_context(progress("limit", len(vms) * len(limits)))
        held: list[Held] = []
        for vm in vms:
            for one in measure(vm, limits, args.vcpus, args.seconds, cancel=args.cancel):
                held.append(one)
                done(len(held) // args.vcpus)
    series = [
        Series(name, _what(limit, index), [p / PAGES_PER_MB for p in c.pages], _seconds(c.times))
        for name, limit, index, c in held
    ]
    title = "memory that the guest has stored to since the command"
    return give(args, Result("limit", title, "MB", series), table(held))


def _what(limit: int, index: int) -> str:
    return f"{limit} MB/s on vCPU {index}"


def _seconds(times: Sequence[int]) -> list[float]:
    return [when / SECOND for when in times]


def in_order(limits: Sequence[int], order: Order) -> list[int]:
    """Return `limits` in that order; random is the same order each time."""
    ordered = sorted(limits, reverse=order == "falling")
    if order == "random":
        random.Random(1).shuffle(ordered)
    return ordered


def measure(
    vm: Vm, limits: Sequence[int], vcpus: int, seconds: float, *, cancel: bool = False
) -> Iterator[Held]:
    """Set one limit after the other, each for `seconds`; `vm` is stopped before and after."""
    vm.qmp.execute("cont")
    for step in range(len(limits)):
        wanted = [limits[-1 - step if index % 2 else step] for index in range(vcpus)]
        if cancel:
            _set(vm, None)
            time.sleep(FREE_S)
        for index, limit in enumerate(wanted):
            _set(vm, limit, index)
        for index, course in enumerate(watch(vm, vcpus, seconds)):
            yield vm.name, wanted[index], index, course
    _set(vm, None)
    vm.qmp.execute("stop")


def watch(vm: Vm, vcpus: int, seconds: float) -> list[Course]:
    """Sample each vCPU's progress every few milliseconds, for `seconds` from now on."""
    start = time.monotonic_ns()
    end = start + round(seconds * SECOND)
    times: list[int] = []
    pages: list[list[int]] = [[] for _ in range(vcpus)]
    base = [vm.progress(index) for index in range(vcpus)]
    while not times or times[-1] + start < end:
        times.append(time.monotonic_ns() - start)
        for index in range(vcpus):
            pages[index].append(vm.progress(index) - base[index])
        time.sleep(LOOK_S)
    return [Course(times, column) for column in pages]


def _set(vm: Vm, limit: int | None, cpu_index: int = 0) -> None:
    if limit is None:
        vm.qmp.execute("cancel-vcpu-dirty-limit")
    else:
        arguments = {"cpu-index": cpu_index, "dirty-rate": limit}
        vm.qmp.execute("set-vcpu-dirty-limit", arguments)


def table(held: Sequence[Held]) -> str:
    """Return a Markdown table with a row for each limit and a column for each server."""
    names = list(dict.fromkeys(name for name, *_ in held))
    cells = {
        (limit, index, name): _verdict(course, limit, course.settling_time(limit))
        for name, limit, index, course in held
    }
    rows = [["limit: steady / first second / settled / longest pause", *names]]
    for limit, index in sorted({(limit, index) for _, limit, index, _ in held}):
        rows.append(
            [_what(limit, index), *(cells.get((limit, index, name), "-") for name in names)]
        )
    return markdown(rows)


def _verdict(course: Course, limit: int, settled: float | None) -> str:
    parts = (
        f"{course.steady_error(limit) * 100:+.2f} %",
        f"{course.first_error(limit) * 100:+.1f} %",
        "never" if settled is None else f"{settled:.1f} s",
        f"{course.longest_pause() * 1000:.0f} ms",
    )
    return " / ".join(parts)


def timelines(vms: Sequence[Vm]) -> Result:
    """Run each of `vms` through `TIMELINE`; return its rate in each `BIN_S`, beside the limit."""
    limit_seconds: list[float] = []
    limit_samples: list[float] = []
    ends = [when for when, _ in TIMELINE[1:]] + [TIMELINE_END_S]
    for (when, limit), end in zip(TIMELINE, ends, strict=True):
        if limit is not None:
            limit_seconds += [when, end]
            limit_samples += [limit, limit]
    series = []
    for vm in vms:
        rates = _follow(vm, ends).rates(BIN_S)
        what = f"{vm.name}: MB/s in each {BIN_S * 1000:.0f} ms"
        seconds = [(index + 0.5) * BIN_S for index in range(len(rates))]
        series.append(Series(vm.name, what, rates, seconds))
        series.append(Series("limit", what, limit_samples, limit_seconds))
    title = "a guest's rate under changing limits"
    whats = tuple(dict.fromkeys(one.what for one in series))
    return Result("limit", title, "MB/s", series, digits=1, log=whats)


def _follow(vm: Vm, ends: Sequence[float]) -> Course:
    times: list[int] = []
    pages: list[int] = []
    vm.qmp.execute("cont")
    start, base = time.monotonic_ns(), vm.progress(0)
    for (_, limit), end in zip(TIMELINE, ends, strict=True):
        if times:
            _set(vm, limit)  # QEMU may take a second to answer; rate() bridges the gap
        offset, stored = time.monotonic_ns() - start, vm.progress(0) - base
        (course,) = watch(vm, 1, end - offset / SECOND)
        times += [offset + when for when in course.times]
        pages += [stored + count for count in course.pages]
    vm.qmp.execute("stop")
    return Course(times, pages)
