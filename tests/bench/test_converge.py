"""`qmpctl bench converge`: its table of runs that are given, and brief real runs."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from qmpserver.bench import converge as module
from qmpserver.bench.converge import (
    LIMIT,
    PAUSE,
    RATE,
    REMAINING,
    THROTTLE,
    Row,
    _change,
    _courses,
    table,
)
from qmpserver.bench.converging import (
    Change,
    Conditions,
    MissingError,
    Moment,
    Run,
    _check_capabilities,
)
from qmpserver.bench.servers import Candidate
from qmpserver.bench.ways import WAYS, Way
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.figures import MIB
from tests.tools.conftest import Run as Qmpctl

if TYPE_CHECKING:
    from qmpserver.bench.vm import Vm

CONDITIONS = Conditions(bandwidth=100, within=5.0, data=500 * MIB, pause=0.3)
SMALL = ["--ram", "64M", "--data", "16M", "--bandwidth", "16"]


def completed(total: float, pause: float, *course: Moment) -> Run:
    live = total - pause
    wrote = (20.0, 10.0)
    return Run("completed", live, total, pause, pause, 600.0, wrote, wrote, False, course=[*course])


def never() -> Run:
    return Run("never", 40.0, None, None, None, 4000.0, (1500.0,), (1400.0,), False)


def cells(text: str) -> list[list[str]]:
    lines = text.splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])]


def test_the_bound_is_what_the_link_and_the_pause_leave() -> None:
    assert CONDITIONS.bound(5.0) == 100 - (500 - 100 * 0.3) / 5
    assert CONDITIONS.bound(50.0) == pytest.approx(90.6)


def test_one_run_of_each_way() -> None:
    rows = [Row("A", "promise", [completed(4.9, 0.281)]), Row("B", "precopy", [never()])]
    head, mine, theirs = cells(table(rows, CONDITIONS))
    assert head[2:] == [
        *("total, s", "off the goal, %", "pause, ms", "sent, MB", "wrote, MB/s", "bound, MB/s")
    ]
    assert mine == ["A", "promise", "4.90", "-2.0", "281", "600", "30", "4"]
    assert theirs == ["B", "precopy", "never", "-", "-", "4000", "1400", "-"]


def test_many_runs_are_counted() -> None:
    runs = [completed(4.91, 0.3), completed(5.09, 0.304), completed(5.2, 0.306)]
    head, mine, theirs, hopeless = cells(
        table(
            [
                Row("A", "promise", runs),
                Row("B", "ramp", [*runs, never()]),
                Row("B", "precopy", [never(), never(), runs[0]]),
            ],
            CONDITIONS,
        )
    )
    assert head[-3:] == ["completed", "within 2% of the goal", "pause + 5 ms"]
    assert mine[2:5] == ["5.09 / 5.20", "+1.8 / +4.0", "304 / 306"]
    assert mine[-3:] == ["3 of 3", "2 of 3", "2 of 3"]
    assert theirs[2:4] == ["5.09 / never", "+1.8 / never"]
    assert theirs[-3:] == ["3 of 4", "2 of 4", "2 of 4"]
    assert hopeless[2:5] == ["never", "-", "-"]
    assert (theirs[5], theirs[6], theirs[7]) == ("600 / 4000", "30 / 30", "8")
    assert hopeless[7] == "-"
    assert hopeless[-3:] == ["1 of 3", "1 of 3", "1 of 3"]


def test_the_courses_of_a_run() -> None:
    moments = (
        Moment(0.5, 16.0, (0, 0), 0, 0.3, (256, 0)),
        Moment(1.0, 8.0, (40, 0), 0, 0.3, (512, 256)),
        Moment(1.5, 4.0, (30, 50), 0, 0.3, (640, 256)),
    )
    series = {one.what: one for one in _courses(Row("A", "w"), completed(1.8, 0.3, *moments))}
    assert THROTTLE not in series
    assert (series[REMAINING].samples, series[REMAINING].seconds) == ([16, 8, 4], [0.5, 1.0, 1.5])
    assert series[LIMIT].samples == [0, 40, 30]
    assert (series[RATE].samples, series[RATE].seconds) == ([2.0, 4.0, 1.0], [0.5, 1.0, 1.5])
    assert (series[PAUSE].samples, series[PAUSE].seconds) == ([300] * 4, [0.5, 1.0, 1.5, 1.8])


def test_a_change() -> None:
    assert _change("bandwidth=64@2.5s") == Change("bandwidth", 64.0, 2.5)
    assert _change("rate=100@300ms") == Change("rate", 100.0, 0.3)


@pytest.mark.parametrize("text", ["bandwidth=64", "colour=64@5s", "rate=0@5s", "rate=6@5"])
def test_a_change_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"@5s|a duration"):
        _change(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--within", "5"], "'5' must be a duration above 0"),
        (["--pause", "0ms"], "'0ms' must be a duration above 0"),
        (["--way", "none"], "invalid choice: 'none'"),
        (["--working-set", "512M"], "--working-set must be at most --data"),
        (["--light", "30"], "--light needs --vcpus 2 or more"),
    ],
)
def test_options_that_make_no_sense(qmpctl: Qmpctl, words: list[str], said: str) -> None:
    ran = qmpctl("bench", "converge", *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


def test_ways() -> None:
    """Those that change downtime-limit from outside allow longer pauses than the goal."""
    assert [name for name, way in WAYS.items() if way.longest] == [
        *("stepped-downtime", "ramp", "stall")
    ]
    for way in WAYS.values():
        assert way.policy is None or way.policy() is not way.policy()


def measured(
    qmpctl: Qmpctl, accel: str, raw: Path, *words: str
) -> tuple[str, dict[str, list[float]]]:
    """Return the table and the samples of one row."""
    server = f"qmpserver -accel {accel},dirty-ring-size=4096"
    ran = qmpctl("bench", "converge", *SMALL, "--server", server, "--json", str(raw), *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    series: Any = json.loads(raw.read_text())["series"]
    assert len({one["server"] for one in series}) == 1
    return ran.stdout, {one["what"]: one["samples"] for one in series}


@pytest.mark.slow
def test_a_promise(qmpctl: Qmpctl, accel: str, tmp_path: Path) -> None:
    goal = ["--within", "2s", "--pause", "300ms"]
    picture = tmp_path / "course.svg"
    words = ["--way", "promise", *goal, "--plot", str(picture)]
    text, samples = measured(qmpctl, accel, tmp_path / "raw.json", *words)
    assert "| promise | " in text
    assert samples["completed"] == [1.0]
    assert 1.0 < samples["total, s"][0] < 10
    assert 0 < samples["from STOP to RESUME, s"][0] <= samples["pause, s"][0] + 0.01
    assert samples["sent, MB"][0] > 16
    assert samples["wrote, MB/s"][0] > 0
    assert max(samples[f"cycle 1: {LIMIT}"]) > 0
    assert samples[f"cycle 1: {PAUSE}"][0] == 300
    assert samples[f"cycle 1: {PAUSE}"][-1] == pytest.approx(samples["pause, s"][0] * 1e3)
    for what in (REMAINING, LIMIT, RATE, "downtime-limit"):
        assert what in picture.read_text()


@pytest.mark.slow
def test_a_migration_that_never_ends(qmpctl: Qmpctl, accel: str, tmp_path: Path) -> None:
    """The link becomes slower under way, and one of the vCPUs."""
    words = ["--way", "precopy", "--pause", "20ms", "--give-up", "1500ms", "--vcpus", "2"]
    words += ["--light", "8", "--change", "bandwidth=8@500ms", "--change", "rate=4@700ms"]
    text, samples = measured(qmpctl, accel, tmp_path / "raw.json", *words)
    assert "| precopy | never " in text
    assert (samples["completed"], samples["total, s"]) == ([0.0], [])
    assert 8 < samples["sent, MB"][0] < 24
    assert f"cycle 1: {LIMIT}" not in samples
    assert 0 < samples["vCPU 1 wrote, MB/s"][0] < 9
    rates = samples[f"cycle 1: {RATE}"][-3:]  # of moments in which a busy machine may not run it
    assert max(rates) > 0
    assert min(rates) < samples["vCPU 0 before, MB/s"][0]


@pytest.mark.slow
def test_a_policy_from_outside(qmpctl: Qmpctl, accel: str, tmp_path: Path) -> None:
    """The ramp allows a pause that carries the whole working set."""
    words = ["--way", "ramp", "--data", "8M", "--working-set", "4M", "--give-up", "20s"]
    text, samples = measured(qmpctl, accel, tmp_path / "raw.json", *words)
    assert "| ramp | " in text
    assert samples["completed"] == [1.0]


@pytest.mark.slow
def test_qemu(qmpctl: Qmpctl, kvm: None, newer_qemu: str) -> None:
    words = ["--way", "dirty-limit-20", "--way", "auto-converge", "--give-up", "2s"]
    ran = qmpctl("bench", "converge", *SMALL, "--server", newer_qemu, *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "| dirty-limit-20 | " in ran.stdout
    assert "| auto-converge " in ran.stdout


def test_a_server_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other rows are measured, in each cycle."""
    asked: list[str] = []

    def measure(server: Candidate, way: Way, _conditions: Conditions) -> Run:
        asked.append(server.name)
        if server.name == "old" and way.capabilities:
            raise MissingError("old does not have the capability dirty-limit")
        return never()

    monkeypatch.setattr(module, "converge", measure)
    parser = argparse.ArgumentParser()
    module.configure(parser)
    words = ["--way", "precopy", "--way", "dirty-limit-20", "--cycles", "2"]
    words += ["--way", "dirty-limit-50", "--server", "new", "--server", "old"]
    assert module.run(parser.parse_args(words)) == 0
    assert asked == ["new"] * 3 + ["old"] * 3 + ["new"] * 3 + ["old"]
    text, note = capsys.readouterr().out.split("\n\n")
    assert [row[:2] for row in cells(text)[1:]] == [
        ["new", "precopy"],
        ["new", "dirty-limit-20"],
        ["new", "dirty-limit-50"],
        ["old", "precopy"],
    ]
    assert note == "not measured: old does not have the capability dirty-limit\n"
    with pytest.raises(QmpctlError, match="not measured: old does not"):
        module.run(parser.parse_args(["--way", "dirty-limit-20", "--server", "old"]))


def test_a_capability_that_is_missing() -> None:
    vm = cast(
        "Vm",
        SimpleNamespace(
            name="it", qmp=SimpleNamespace(execute=lambda _: [{"capability": "auto-converge"}])
        ),
    )
    _check_capabilities(vm, WAYS["auto-converge"])
    with pytest.raises(MissingError, match=r"^it does not have the capability dirty-limit$"):
        _check_capabilities(vm, WAYS["dirty-limit-20"])
