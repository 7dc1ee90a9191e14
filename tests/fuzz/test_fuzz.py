"""Made-up input, each subject's share of `INPUTS`, from the seed QMPSERVER_SEED on (1)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import qemu_programs
from tests.fuzz import __main__ as program
from tests.fuzz.explore import SUBJECTS
from tests.fuzz.trend import growth

ROOT = Path(__file__).parents[2]
SEED = os.environ.get("QMPSERVER_SEED", "1")
INPUTS = 30_000
STREAMS = ["destination", "source"]
ELSEWHERE = ["receiver"]  # tests/vm/native/run.sh has it


@pytest.mark.slow
@pytest.mark.parametrize("subject", [one for one in SUBJECTS if one not in STREAMS + ELSEWHERE])
def test_made_up_input(subject: str) -> None:
    if subject == "qemu" and not qemu_programs():
        pytest.skip("there is no QEMU")
    explore(subject)


@pytest.mark.slow
@pytest.mark.parametrize("subject", STREAMS)
def test_made_up_streams(subject: str) -> None:
    explore(subject)


def explore(subject: str) -> None:
    inputs = INPUTS * SUBJECTS[subject] // sum(SUBJECTS.values())
    command = [sys.executable, "-m", "tests.fuzz", subject, "--inputs", str(inputs)]
    ended = subprocess.run(
        [*command, "--seed", SEED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_without_a_qemu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "qemu_programs", dict)
    monkeypatch.setattr(sys, "argv", ["fuzz", "qemu"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert "there is no QEMU to compare with" in capsys.readouterr().err


def test_a_series_that_grows() -> None:
    assert growth([100.0 + 3 * one for one in range(40)]) == pytest.approx(87)
    # Odd values change little.
    odd = [1e9 if one % 9 == 4 else 100.0 + 3 * one for one in range(40)]
    assert growth(odd) == pytest.approx(87, rel=0.05)


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 40,
        [5.0, 500.0] * 20,
        [float(min(one, 9)) for one in range(40)],  # a cache that fills
        [40.0 - one for one in range(40)],
        [1.0, 2.0, 3.0],
    ],
)
def test_a_series_that_does_not_grow(values: list[float]) -> None:
    assert growth(values) == 0
