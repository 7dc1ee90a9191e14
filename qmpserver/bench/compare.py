"""Run all measurements, on this server and on QEMU where it is installed, into one report.

The report is DIR/report.md, with a picture and the raw samples of each measurement beside it. It
takes six to seven minutes; keep the machine idle meanwhile.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver._version import VERSION
from qmpserver.bench.command_line import QEMU, has_qemu
from qmpserver.bench.report import progress
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.numbers import at_least

if TYPE_CHECKING:
    import argparse

ROUNDS = "{rounds}"
SOME = "{some}"  # a quarter of the rounds, where each takes seconds
WITH_QEMU = "{qemu}"

# The measurements in their order: file name, words after "qmpctl bench".
PLAN = {
    "cancel": ["cancel", "--cycles", ROUNDS, WITH_QEMU],
    "cancel-busy": ["cancel", "--busy", "--cycles", ROUNDS],
    "release": ["release", "--cycles", ROUNDS, "--quits", SOME, WITH_QEMU],
    "limit": ["limit", "--limits", "10,100,400", WITH_QEMU],
    "fair": ["fair", "--windows", SOME],
    "guest": ["guest", "--windows", SOME, "--limited-windows", "2"],
    "migrate": ["migrate", "--cycles", SOME],
    "qmp": ["qmp", "--clients", "1"],  # QEMU answers more slowly with more monitors
    "floor": ["floor", "--cycles", ROUNDS],
    "start": ["start", "--starts", ROUNDS],
    "scale": ["scale", "--cycles", "1"],
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--output", type=Path, default=Path("compared"), metavar="DIR")
    parser.add_argument(
        "--rounds", type=at_least(1), default=12, help="cycles or windows of each (%(default)s)"
    )
    parser.add_argument("--accel", choices=("kvm", "soft"), default="kvm")
    parser.add_argument(
        "--only",
        action="append",
        choices=PLAN,
        metavar="NAME",
        help=f"one of {', '.join(PLAN)}; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, and write the report.

    Raises:
        QmpctlError: A measurement failed, or the report cannot be written.
    """
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        with (args.output / "report.md").open("w") as report:
            print(_heading(args), file=report)
            chosen = [name for name in PLAN if not args.only or name in args.only]
            failed = []
            with progress("compare", len(chosen)) as done:
                for number, name in enumerate(chosen, 1):
                    section, ok = _section(name, args)
                    print(section, file=report, flush=True)
                    failed += [] if ok else [name]
                    done(number)
    except OSError as error:
        raise QmpctlError(f"{error.filename}: {error.strerror}") from None
    print(args.output / "report.md")
    if failed:
        raise QmpctlError(f"not everything could be measured: {', '.join(failed)}")
    return 0


def _section(name: str, args: argparse.Namespace) -> tuple[str, bool]:
    """Run one measurement; return its part of the report, and whether it succeeded."""
    words = ["bench"]
    counts = {ROUNDS: str(args.rounds), SOME: str(max(args.rounds // 4, 1))}
    for word in PLAN[name]:
        if word == WITH_QEMU:
            words += ["--qemu"] if has_qemu() and args.accel == "kvm" else []
        else:
            words.append(counts.get(word, word))
    if PLAN[name][0] in ("guest", "migrate") and not (has_qemu() and args.accel == "kvm"):
        words += ["--server", "qmpserver"]
    if PLAN[name][0] == "qmp" and not has_qemu():
        words.append("--no-qemu")
    if name != "start":  # it measures both
        words += ["--accel", args.accel]
    shown = f"## {name}\n\n`qmpctl {shlex.join(words)}`\n"
    files = ["--json", f"{args.output}/{name}.json", "--plot", f"{args.output}/{name}.svg"]
    # A process of its own: changes to its state, such as its priority, do not reach the next.
    ran = subprocess.run(
        [sys.executable, "-m", "qmpserver.tools.qmpctl", *words, *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        said = ran.stderr.strip() or f"status {ran.returncode}"
        print(f"qmpctl bench {name}: {said}", file=sys.stderr)
        return f"{shown}\nNot measured: {said.splitlines()[-1]}\n", False
    return f"{shown}\n{ran.stdout}\n![{name}]({name}.svg)\n", True


def _heading(args: argparse.Namespace) -> str:
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(x.partition(": ")[2] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    qemu = "not installed"
    if has_qemu():
        ran = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=False)
        qemu = ran.stdout.splitlines()[0] if ran.stdout else "does not start"
    words = ["qmpctl", "bench", "compare", "--rounds", str(args.rounds), "--accel", args.accel]
    words += [word for name in args.only or () for word in ("--only", name)]
    load = os.getloadavg()[0]
    return f"""# qmpserver and QEMU, measured side by side

- when: {when}, load average before: {load:.2f}
- machine: {os.cpu_count()} x {processor}, {memory:.1f} GiB; Linux {platform.release()}
- qmpserver {VERSION}, Python {platform.python_version()}
- QEMU: {qemu}
- command: `{shlex.join(words)}`

Servers in one table were measured in turn, in one run; a column `A : B` is the median ratio of
their pairs.
"""
