"""Two combinations of the matrix, the oldest ones; `python -m tests.testing.matrix` runs them all."""

from pathlib import Path

import pytest

from tests.testing.matrix import COMBINATIONS, Combination, environment, run

EXTREMES = ("pytest 7.0, pluggy 1.0", "pytest-asyncio 0.23.8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "combination",
    [one for one in COMBINATIONS if one.name in EXTREMES],
    ids=lambda combination: combination.name,
)
def test_extremes(combination: Combination, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", combination.packages)
    directory = tmp_path / "suite"
    directory.mkdir()
    assert " passed" in run(python, combination, directory)


def test_both_are_there() -> None:
    assert set(EXTREMES) <= {one.name for one in COMBINATIONS}
