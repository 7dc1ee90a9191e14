"""The matrix's test suites, in the environment that is here: nothing is installed for them."""

import sys
from pathlib import Path

import pytest

from tests.testing.matrix import COMBINATIONS, Combination, run

HERE = ("newest, pytest-asyncio, auto", "newest, no autoload")


@pytest.mark.slow
@pytest.mark.install
@pytest.mark.parametrize(
    "combination",
    [one for one in COMBINATIONS if one.name in HERE],
    ids=lambda combination: combination.name,
)
def test_here(combination: Combination, tmp_path: Path) -> None:
    assert "pytest-" in run(Path(sys.executable), combination, tmp_path)


@pytest.mark.slow
def test_a_failure_is_told(tmp_path: Path) -> None:
    fails = Combination("fails", (), {"fails": "def test(qmp):\n    qmp.cmd('no-such')\n"})
    with pytest.raises(RuntimeError, match="The command no-such has not been found"):
        run(Path(sys.executable), fails, tmp_path)
    skips = Combination("skips", (), {"fails": "import pytest\ndef test(): pytest.skip()\n"})
    with pytest.raises(RuntimeError, match="1 tests should have passed"):
        run(Path(sys.executable), skips, tmp_path)


def test_names() -> None:
    names = [one.name for one in COMBINATIONS]
    assert len(set(names)) == len(names)
