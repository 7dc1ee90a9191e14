"""The bars that migrations of this server are held to, measured and judged.

`python -m tests.migration.bars --runs 20` measures all rows, some hours, and prints them as
Markdown. Each run is stored in a file at once, and a run that is stored is not made again: the
program can be interrupted, and rows can be added by name. Machines are this server's and QEMU's, on
KVM. Keep the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpserver.bench.command_line import QEMU, has_qemu
from qmpserver.bench.converge import LATE_S, NEAR
from qmpserver.bench.converging import Change, Conditions, Run, converge
from qmpserver.bench.report import markdown
from qmpserver.bench.servers import OURS, Candidate
from qmpserver.bench.ways import LIMITS, WAYS
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.figures import MIB
from qmpserver.tools.numbers import at_least
from qmpserver.tools.qmpctl import exit_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

ACCEL = "kvm,dirty-ring-size=4096"
SERVERS = {"qmpserver": Candidate("qmpserver", OURS, ACCEL), "QEMU": Candidate("QEMU", QEMU, ACCEL)}

MISSES = 20  # one run of so many may miss
BOUND = 0.95  # of the rate that the arithmetic allows
TIGHT = 0.05  # of the total, where the time hardly suffices, and where no limit is needed
KEEPS = 0.98  # of its speed: a vCPU that needs no limit
TOLD_S = 0.2
HOT = 0.8  # of the bytes that precopy sends
MORE = 1.3  # times QEMU's best
LIGHT = 30  # MB/s

Results = dict[str, list[Run]]
"""The runs of a row, by the name of their case."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that a row measures.

    Attributes:
        server: One of `SERVERS`.
        way: One of `WAYS`.
        conditions: The guest, the link and the goal.
        like: The name of a case before: its median total is the goal.
        most: Runs that are enough.
    """

    server: str
    way: str
    conditions: Conditions
    like: str = ""
    most: int = 1000

    @property
    def name(self) -> str:
        """Its name within the row."""
        return f"{self.server} {self.way}" + (f" like {self.like}" if self.like else "")


@dataclass(slots=True)
class Verdict:
    """The words of a measured row, and whether it passes."""

    passed: bool = True
    words: list[str] = field(default_factory=list)

    def say(self, passed: bool, words: str) -> None:
        """Add a part, which has passed or not."""
        self.passed &= passed
        self.words.append(words if passed else f"**{words}**")


@dataclass(frozen=True, slots=True)
class Row:
    """A bar: its name, its words, the cases that are measured, and the judgement."""

    name: str
    bar: str
    cases: tuple[Case, ...]
    judge: Callable[[Row, Results], Verdict]


def enough(runs: list[Run], held: Callable[[Run], bool]) -> tuple[bool, str]:
    """Return whether a property holds as often as it must, and the text that counts it."""
    count = sum(map(held, runs))
    return count >= len(runs) - len(runs) // MISSES, f"{count} of {len(runs)}"


def total(run: Run) -> float:
    """Return the total; infinite if there is none."""
    return run.total if run.total is not None else float("inf")


def pause(run: Run) -> float:
    """Return the pause; infinite if there is none."""
    return run.pause if run.pause is not None else float("inf")


def is_near(goal: float, share: float, run: Run) -> bool:
    """Return whether the total is so near to the goal."""
    return abs(total(run) / goal - 1) <= share


def is_short(conditions: Conditions, run: Run) -> bool:
    """Return whether the pause is as short as it must be."""
    return pause(run) <= conditions.pause + LATE_S


def middle(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def wrote(runs: list[Run]) -> float:
    """Return the median of the MB/s that the guest wrote, all vCPUs together."""
    return middle([sum(run.wrote) for run in runs])


def judge_total(verdict: Verdict, goal: float, share: float, runs: list[Run]) -> None:
    """Judge how near totals are to the goal."""
    passed, count = enough(runs, partial(is_near, goal, share))
    worst = max((total(run) for run in runs), key=lambda one: abs(one - goal))
    median = middle([total(run) for run in runs])
    verdict.say(passed, f"{count} within {share:.0%}: median {median:.2f}, worst {worst:.2f} s")


def judge_pause(verdict: Verdict, conditions: Conditions, runs: list[Run]) -> None:
    """Judge the pauses."""
    passed, count = enough(runs, partial(is_short, conditions))
    pauses = [1e3 * pause(run) for run in runs]
    figures = f"median {middle(pauses):.0f}, worst {max(pauses):.0f} ms"
    verdict.say(passed, f"{count} paused in time: {figures}")


def judge_promise(row: Row, results: Results) -> Verdict:
    """Judge the total, the pause, and what the guest wrote."""
    (case,), verdict = row.cases, Verdict()
    runs, conditions = results[case.name], case.conditions
    judge_total(verdict, conditions.within, NEAR, runs)
    judge_pause(verdict, conditions, runs)
    bound = conditions.bound(conditions.within)
    share = wrote(runs) / bound
    verdict.say(share >= BOUND, f"wrote {wrote(runs):.0f} of {bound:.0f} MB/s ({share:.2f})")
    return verdict


def judge_tight(row: Row, results: Results) -> Verdict:
    """Judge the total, unless the forecast has refused."""
    (case,), verdict = row.cases, Verdict()
    runs = results[case.name]
    refused = sum(run.possible is False for run in runs)
    if refused:
        verdict.say(True, f"{refused} of {len(runs)} refused by the forecast")
    if expected := [run for run in runs if run.possible is not False]:
        judge_total(verdict, case.conditions.within, TIGHT, expected)
        judge_pause(verdict, case.conditions, expected)
    return verdict


def judge_light(row: Row, results: Results) -> Verdict:
    """Judge the speed of the last vCPU, beside that of a moment before.

    A vCPU that makes up for lost time then is faster than it has to be.
    """
    (case,), verdict = row.cases, Verdict()
    runs = results[case.name]
    judge_total(verdict, case.conditions.within, NEAR, runs)
    shares = [run.wrote[-1] / min(run.before[-1], LIGHT) for run in runs]
    words = f"the light one keeps {middle(shares):.3f} (median), {min(shares):.3f} (worst)"
    verdict.say(middle(shares) >= KEEPS, words)
    return verdict


def judge_fitting(row: Row, results: Results) -> Verdict:
    """Judge a migration that needs no limit."""
    (case,), verdict = row.cases, Verdict()
    runs, conditions = results[case.name], case.conditions
    limited = sum(run.limited for run in runs)
    verdict.say(not limited, f"{limited} of {len(runs)} limited")
    judge_total(verdict, conditions.data / MIB / conditions.bandwidth, TIGHT, runs)
    return verdict


def judge_change(row: Row, results: Results) -> Verdict:
    """Judge a promise that must be kept although the link or the guest changes; early is kept."""
    (case,), verdict = row.cases, Verdict()
    runs, goal = results[case.name], case.conditions.within
    passed, count = enough(runs, lambda run: total(run) <= goal * (1 + NEAR))
    totals = [total(run) for run in runs]
    figures = f"median {middle(totals):.2f}, worst {max(totals):.2f} s"
    verdict.say(passed, f"{count} in time: {figures}")
    judge_pause(verdict, case.conditions, runs)
    return verdict


def judge_broken(row: Row, results: Results) -> Verdict:
    """Judge how soon the server tells that it cannot keep a promise."""
    (case,), verdict = row.cases, Verdict()
    runs = results[case.name]
    delays = [
        run.told - run.changed
        for run in runs
        if run.told is not None and run.changed is not None and run.told >= run.changed
    ]
    told = sum(delay <= TOLD_S for delay in delays)
    worst = f", worst {max(delays) * 1e3:.0f} ms" if delays else ""
    early = sum(run.told is not None and run.told < (run.changed or 0) for run in runs)
    words = f"{told} of {len(runs)} told within {TOLD_S * 1e3:.0f} ms{worst}"
    verdict.say(told == len(runs), words + (f", {early} before the change" if early else ""))
    judge_pause(verdict, case.conditions, runs)
    return verdict


def judge_hot(row: Row, results: Results) -> Verdict:
    """Judge the bytes that a promise sends, beside QEMU's rounds."""
    verdict = Verdict()
    sent = {name: middle([run.sent for run in runs]) for name, runs in results.items()}
    mine, rounds = sent[row.cases[0].name], sent[row.cases[-1].name]
    words = ", ".join(f"{name} {sent:.0f} MB" for name, sent in sent.items())
    verdict.say(mine <= HOT * rounds, f"{mine / rounds:.2f} of {row.cases[-1].name}: {words}")
    return verdict


def judge_equal_time(row: Row, results: Results) -> Verdict:
    """Judge what the guest writes beside QEMU's dirty limits that take the same total."""
    verdict = Verdict()
    for case in row.cases:
        if not case.like:
            continue
        theirs, mine = results[case.like], results[case.name]
        times = f"{middle([total(run) for run in theirs]):.1f} s"
        words = f"{case.like} {times}: {wrote(mine):.0f} : {wrote(theirs):.0f} MB/s"
        verdict.say(wrote(mine) >= MORE * wrote(theirs), words)
    return verdict


def judge_qemu(row: Row, results: Results) -> Verdict:
    """Judge a promise beside all ways of QEMU: sooner, and the guest writes more."""
    verdict = Verdict()
    mine, *others = row.cases
    judge_total(verdict, mine.conditions.within, NEAR, results[mine.name])
    verdict.say(True, f"wrote {wrote(results[mine.name]):.0f} MB/s")
    for case in others:
        runs = results[case.name]
        totals = [total(run) for run in runs]
        shown = "never" if min(totals) == float("inf") else f"{min(totals):.1f} s at best"
        sooner = max(map(total, results[mine.name])) < min(totals)
        more = min(totals) == float("inf") or wrote(results[mine.name]) > wrote(runs)
        verdict.say(sooner and more, f"{case.name}: {shown}, {wrote(runs):.0f} MB/s")
    return verdict


def rows() -> list[Row]:
    """Return all rows."""
    usual = Conditions()
    found = [
        _promise(within, pause, vcpus)
        for pause in (0.3, 0.1, 0.05, 0.02)
        for within in (5, 10, 20)
        for vcpus in (1, 2)
    ]
    tight = replace(usual, within=1.3 * usual.data / MIB / usual.bandwidth, pause=0.1)
    found += [
        Row(
            f"tight-{vcpus}",
            f"T is 1.3 R/B, {_vcpus(vcpus)}: within {TIGHT:.0%}, or refused by the forecast",
            _ours(replace(tight, vcpus=vcpus)),
            judge_tight,
        )
        for vcpus in (1, 2)
    ]
    return [
        *found,
        Row(
            "light",
            f"one vCPU at full speed, one at {LIGHT} MB/s: it keeps {KEEPS} of its speed",
            _ours(replace(usual, vcpus=2, light=LIGHT)),
            judge_light,
        ),
        *(
            Row(
                f"fitting-{mb}",
                f"a working set of {mb} MB fits the pause: no limit, R/B within {TIGHT:.0%}",
                _ours(replace(usual, working_set=mb * MIB)),
                judge_fitting,
            )
            for mb in (8, 24)  # a ring of `ACCEL` takes 16 MB
        ),
        Row(
            "link-halved",
            "the link is halved half way, 10 s: kept",
            _ours(replace(usual, within=10.0, changes=(Change("bandwidth", 64, 5.0),))),
            judge_change,
        ),
        Row(
            "link-halved-late",
            f"the same at 1.5 s of 3, too late: told within {TOLD_S * 1e3:.0f} ms",
            _ours(replace(usual, within=3.0, changes=(Change("bandwidth", 64, 1.5),))),
            judge_broken,
        ),
        Row(
            "rate-doubled",
            "the guest's rate doubles half way, from 80 MB/s: kept",
            _ours(replace(usual, rate=80, changes=(Change("rate", 160, 2.5),))),
            judge_change,
        ),
        Row(
            "hot-spot",
            f"a tenth of the pages takes 90 % of 250 MB/s: at most {HOT} of precopy's bytes",
            _hot(replace(usual, pattern="hotspot", rate=250, pause=0.25)),
            judge_hot,
        ),
        Row(
            "equal-time",
            f"at QEMU's totals the guest writes {MORE} times as much",
            tuple(
                case
                for limit in LIMITS
                for case in (
                    Case("QEMU", f"dirty-limit-{limit}", usual, most=5),
                    Case("qmpserver", "promise", usual, like=f"QEMU dirty-limit-{limit}", most=5),
                )
            ),
            judge_equal_time,
        ),
        Row(
            "qemu",
            "in 5 s, sooner than QEMU in any way, and the guest writes more",
            (
                Case("qmpserver", "promise", usual),
                Case("QEMU", "precopy", usual, most=1),
                Case("QEMU", "auto-converge", usual, most=3),
                *(Case("QEMU", f"dirty-limit-{limit}", usual, most=5) for limit in LIMITS),
            ),
            judge_qemu,
        ),
    ]


def _vcpus(count: int) -> str:
    return "1 vCPU" if count == 1 else f"{count} vCPUs"


def _ours(conditions: Conditions) -> tuple[Case, ...]:
    return (Case("qmpserver", "promise", conditions),)


def _hot(conditions: Conditions) -> tuple[Case, ...]:
    return (
        Case("qmpserver", "promise", conditions),
        Case("qmpserver", "precopy", conditions),
        Case("QEMU", "precopy", conditions),
    )


def _promise(within: float, pause: float, vcpus: int) -> Row:
    ms = f"{pause * 1e3:.0f}"
    return Row(
        f"promise-{within}s-{ms}ms-{vcpus}",
        f"{within} s, {ms} ms, {_vcpus(vcpus)}: within {NEAR:.0%} and {LATE_S * 1e3:.0f} ms more",
        _ours(Conditions(within=float(within), pause=pause, vcpus=vcpus)),
        judge_promise,
    )


class Store:
    """The runs that were made, in a file: all of them, by row and case."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, Results] = {}
        if not path.exists():
            return
        try:
            self._runs = {
                row: {case: [restored(run) for run in runs] for case, runs in cases.items()}
                for row, cases in json.loads(path.read_text()).items()
            }
        except (AttributeError, OSError, RecursionError, TypeError, ValueError) as error:
            raise SystemExit(f"{path}: these are no runs of bars: {error}") from None

    def of(self, row: Row) -> Results:
        """Return the runs of a row, in the order of its cases; they can be added to."""
        kept = self._runs.setdefault(row.name, {})
        return {case.name: kept.setdefault(case.name, []) for case in row.cases}

    def save(self) -> None:
        """Write the file anew; an interrupt leaves the old one or the new one."""
        text = {
            row: {case: [stored(run) for run in runs] for case, runs in cases.items()}
            for row, cases in self._runs.items()
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(text) + "\n")
        os.replace(new, self._path)


def stored(run: Run) -> dict[str, Any]:
    """Return a run as JSON takes it, without its course."""
    return asdict(replace(run, course=[]))


def restored(values: dict[str, Any]) -> Run:
    """Return the run that `stored` returned."""
    return Run(**values)


def measure(row: Row, runs: int, store: Store) -> None:
    """Make the runs of a row that are missing, its cases in turn.

    Raises:
        QmpctlError: A run failed.
    """
    results = store.of(row)
    for number in range(1, runs + 1):
        for case in row.cases:
            made = results[case.name]
            if len(made) >= min(number, case.most):
                continue
            conditions = case.conditions
            if case.like:
                like = middle([total(run) for run in results[case.like]])
                conditions = replace(conditions, within=min(like, conditions.give_up))
            made.append(converge(SERVERS[case.server], WAYS[case.way], conditions))
            store.save()
            print(f"{row.name}: {case.name}, run {number}", file=sys.stderr)


def line(row: Row, results: Results) -> list[str]:
    """Return the cells of a row that was measured."""
    verdict = row.judge(row, results)
    return [row.name, row.bar, "; ".join(verdict.words), "pass" if verdict.passed else "**FAIL**"]


def main() -> int:
    """Measure the rows that are asked for, and print all that are measured."""
    known = {row.name: row for row in rows()}
    parser = argparse.ArgumentParser(prog="python -m tests.migration.bars", description=__doc__)
    parser.add_argument("--runs", type=at_least(1), default=20, help="of each row (%(default)s)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("bars.json"),
        metavar="FILE",
        help="where runs are stored (%(default)s)",
    )
    parser.add_argument(
        "row", nargs="*", metavar="ROW", help=f"one of {', '.join(known)}; all if there is none"
    )
    args = parser.parse_args()
    exit_on_signals()
    if unknown := set(args.row) - set(known):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in args.row] or list(known.values())
    store = Store(args.results)
    lines = [["row", "bar", "measured", "verdict"]]
    failed = []
    for row in chosen:
        if not has_qemu() and any(case.server == "QEMU" for case in row.cases):
            failed.append(f"{row.name}: {QEMU} is not installed")
            continue
        try:
            measure(row, args.runs, store)
        except QmpctlError as error:
            failed.append(f"{row.name}: {error}")
        else:
            lines.append(line(row, store.of(row)))
    print(markdown(lines))
    for text in failed:
        print(f"\nNot measured: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
