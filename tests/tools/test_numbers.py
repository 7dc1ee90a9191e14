"""Durations from the command line."""

import argparse

import pytest

from qmpserver.tools.completion import complete_durations
from qmpserver.tools.numbers import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("300ms", 0.3), ("1.5s", 1.5), ("0.5ms", 0.0005)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "", "s", "-1s", "0s", "0.0ms", "1 s", "1m", "1e3s", "٣s"])
def test_a_duration_has_its_unit(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        duration(text)
    right = "must be a duration above 0 with its unit, s or ms: 30s, 300ms"
    assert str(raised.value) == f"'{text}' {right}"


def test_units_are_completed() -> None:
    assert complete_durations("30") == ["30s", "30ms"]
    assert complete_durations("30m") == []
    assert complete_durations("") == []
