"""Runs guestperf, the migration benchmark of QEMU's source tree, on this program.

`python -m tests.guestperf TREE` migrates a stand-in and the real program on KVM, in a scenario each
for the ways of guestperf's to make a migration end. The reports and the plots of guestperf are in
the output directory, a page `NAME.html` for each scenario. The tree needs no build, and nothing is
written to it. A stand-in has no guest whose speed guestperf-plot could show: it has reports only.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guestperf import machine
from tests.qtests.__main__ import launcher, release_of

LONGEST_S = 300
SLEEP_S = 10  # before and after each migration: the speed of a guest that nothing slows
SHORT_SLEEP_S = 2  # where no guest is
MAX_TIME_S = 60  # of a migration, then guestperf cancels it
SLOW = "--bandwidth=200"  # MiB/s, less than a guest dirties: it must be slowed


@dataclass(frozen=True)
class Scenario:
    """Options of guestperf's, and the status with which the migration ends."""

    name: str
    options: tuple[str, ...] = ()
    cpus: int = 1


SCENARIOS = (
    Scenario("unix", ("--transport=unix", "--downtime=2000")),
    Scenario("tcp-2-cpus", ("--transport=tcp", "--downtime=5000"), cpus=2),
    Scenario("multifd", ("--transport=tcp", "--multifd", "--downtime=2000")),
    Scenario("pause", ("--transport=unix", "--pause", "--pause-iters=3", SLOW)),
    Scenario("auto-converge", ("--auto-converge", "--auto-converge-step=20", SLOW)),
    Scenario("dirty-limit", ("--dirty-limit", "--vcpu-dirty-limit=50", SLOW)),
    Scenario("dirty-limit-2-cpus", ("--dirty-limit", "--vcpu-dirty-limit=25", SLOW), cpus=2),
)
PLOTLY = "plotly<6"  # guestperf-plot calls it with arguments that later ones refuse
PLOTS = (
    "--migration-iters",
    "--total-guest-cpu",
    "--split-guest-cpu",
    "--qemu-cpu",
    "--vcpu-cpu",
)


def main() -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.guestperf", description=__doc__)
    parser.add_argument("tree", type=Path, help="QEMU's source")
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="a part of the names of those to run"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(".guestperf"), help="for reports and plots"
    )
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    release = release_of(arguments.tree)
    directory = arguments.tree.resolve() / "tests/migration-stress"
    python = plotter(output)
    failed = 0
    for real in (False, True):
        sleep = SLEEP_S if real else SHORT_SLEEP_S
        binary = real_program(output, release) if real else launcher(output, release, real=False)
        for scenario in SCENARIOS:
            name = f"{'real' if real else 'stand-in'}-{scenario.name}"
            if arguments.scenarios and not any(part in name for part in arguments.scenarios):
                continue
            began = time.monotonic()
            try:
                report = migrate(directory, binary, scenario, output / f"{name}.json", sleep)
                missing = check(report, scenario.cpus, real=real)
                if real and not missing:
                    missing = plot(python, directory, report, output / f"{name}.html")
                words = summary(report)
            except (subprocess.SubprocessError, OSError) as error:
                missing, words = [str(error)], ""
            failed += bool(missing)
            outcome = "failed" if missing else "ok"
            print(f"{outcome:7} {time.monotonic() - began:6.1f} s  {name:27} {words}", flush=True)
            for line in missing:
                print(f"          {line}")
    return 1 if failed else 0


def plotter(output: Path) -> str:
    """Return a Python that has plotly, whose script the plots load from beside them."""
    python = output / "plotly/bin/python"
    if not (output / "plotly.min.js").exists():
        subprocess.run([sys.executable, "-m", "venv", output / "plotly"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PLOTLY], check=True)
        code = "import plotly.offline; print(plotly.offline.get_plotlyjs())"
        script = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE).stdout
        (output / "plotly.min.js").write_bytes(script)
    return str(python)


def real_program(output: Path, release: str) -> str:
    """Write a program that starts the real one, and return its path."""
    path = output / "machine-system-x86_64"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {machine.__file__} {release} "$@"\n')
    path.chmod(0o755)
    return str(path)


def migrate(
    directory: Path, binary: str, scenario: Scenario, path: Path, sleep: int
) -> dict[str, Any]:
    """Run guestperf; return its report, which is also at `path`. `sleep` is in seconds.

    Raises:
        subprocess.SubprocessError: It failed; the text is its last line.
    """
    path.unlink(missing_ok=True)
    common = (f"--sleep={sleep}", f"--max-time={MAX_TIME_S}", "--max-iters=100")
    command = [sys.executable, str(directory / "guestperf.py"), f"--binary={binary}"]
    ran = subprocess.run(
        [
            *command,
            *common,
            f"--cpus={scenario.cpus}",
            "--dirty-ring-size=4096",
            f"--output={path}",
            *scenario.options,
        ],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # the tree stays as it is
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST_S,
        check=False,
    )
    if ran.returncode or not path.exists():
        raise subprocess.SubprocessError(ran.stdout.decode(errors="replace").strip())
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def check(report: Mapping[str, Any], cpus: int, *, real: bool) -> list[str]:
    """Return what a report lacks."""
    progress, guest = report["progress_history"], report["guest_timings"]
    end = progress[-1]["now"]
    wanted = {
        "the migration is not completed": progress[-1]["status"] == "completed",
        "there is no time of the process": len(report["qemu_timings"]) >= 2 * report["sleep"] - 2,
        "not every vCPU has a time": len({one["tid"] for one in report["vcpu_timings"]}) == cpus,
    }
    if real:
        wanted["not every round has figures"] = len(progress) >= progress[-1]["ram"]["iterations"]
        source = {one["tid"] for one in guest if one["timestamp"] < end}
        destination = {one["tid"] for one in guest if one["timestamp"] > end}
        wanted["the vCPUs report nothing before the end"] = len(source) == cpus
        wanted["the vCPUs report nothing after the end"] = (
            len(destination) == cpus or report["scenario"]["pause"]
        )
    return [words for words, found in wanted.items() if not found]


def plot(python: str, directory: Path, report: Mapping[str, Any], path: Path) -> list[str]:
    """Write the page; return which series it lacks.

    guestperf-plot ends with an error if the guest's first line is from before guestperf's first
    look at its process: such lines are left out.
    """
    first = report["qemu_timings"][0]["timestamp"]
    later = [one for one in report["guest_timings"] if one["timestamp"] > first]
    plotted = path.with_suffix(".plotted.json")
    plotted.write_text(json.dumps({**report, "guest_timings": later}))
    subprocess.run(
        [python, directory / "guestperf-plot.py", *PLOTS, f"--output={path}", plotted],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    plotted.unlink()
    series = re.findall(r'"name":"(.*?)"', path.read_text())
    wanted = {"Guest PIDs: ", "QEMU: ", "Migration iterations"}
    wanted |= {f"PID {one['tid']}: " for one in later}
    wanted |= {f"VCPU {one['tid']}: " for one in report["vcpu_timings"]}
    return [
        f"there is no series '{name}'"
        for name in sorted(wanted)
        if not any(one.startswith(name) for one in series)
    ]


def summary(report: Mapping[str, Any]) -> str:
    """Return the figures of a report that tell the most."""
    last = report["progress_history"][-1]
    words = f"{last['ram']['iterations']} rounds, {last['duration'] / 1000:.1f} s, "
    words += f"paused {last['downtime']} ms"
    began = last["now"] - last["duration"] / 1000
    took: dict[str, list[int]] = {"before": [], "meanwhile": [], "after": []}
    for one in report["guest_timings"]:
        end, start = one["timestamp"], one["timestamp"] - one["value"] / 1000
        when = "before" if end <= began else "after" if start >= last["now"] else "meanwhile"
        took[when].append(one["value"])
    for when, times in took.items():
        if times:
            words += f"; {when} {round(sum(times) / len(times))} ms a GB"
    return words


if __name__ == "__main__":
    sys.exit(main())
