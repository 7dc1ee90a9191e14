"""How results are shown, stored and drawn: of samples that are given, nothing is measured."""

import argparse
import json
import re
from pathlib import Path

import pytest

from qmpserver.bench.report import COLORS, POINTS, Result, Series, give, percentile, plot, table
from qmpserver.tools.errors import QmpctlError

ACKS = Result(
    "cancel",
    "ms from cancel's request",
    "ms",
    [
        Series("event", "to the ack", [0.5, 0.6, 0.4]),
        Series("poll", "to the ack", [300.0, 600.0, 12.0]),
        Series("event", "to the wake", [0.1, 0.2, 0.3]),
        Series("poll", "to the wake"),
    ],
    paired=True,
    notes=["a note"],
)
COURSE = Result(
    "limit",
    "a guest's rate",
    "MB/s",
    [
        Series("ours", "MB/s in each 100 ms", [50.0 + i * 37 % 101 for i in range(3 * POINTS)],
               [i / 10 for i in range(3 * POINTS)]),
        Series("limit", "MB/s in each 100 ms", [100.0, 100.0], [0.0, 60.0]),
    ],
    log=("MB/s in each 100 ms",),
)  # fmt: skip


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_ratios_are_of_pairs() -> None:
    series = [Series("a", "x", [1.0, 10.0, 2.0]), Series("b", "x", [2.0, 30.0, 8.0])]
    head, _, row = rows(
        table(Result("any", "s", "s", [*series, Series("b", "empty")], paired=True))
    )
    assert head == ["s (median / p99 / max of 3)", "a", "b", "b : a"]
    assert row == ["x", "2.000 / 10.000 / 10.000", "8.000 / 30.000 / 30.000", "3.000"]


def test_percentiles() -> None:
    samples = [float(n) for n in range(1000, 0, -1)]
    assert [percentile(samples, p) for p in (0, 50, 99, 100)] == [1.0, 501.0, 991.0, 1000.0]


def test_a_result_is_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(json=tmp_path / "raw.json", plot=None)
    assert give(args, ACKS) == 0
    assert capsys.readouterr().out == f"{table(ACKS)}\n\na note\n"
    assert rows(table(ACKS))[3] == ["to the wake", "0.200 / 0.300 / 0.300", "-", "-"]
    stored = json.loads(args.json.read_text())
    assert stored["series"][1]["samples"] == [300.0, 600.0, 12.0]
    assert give(argparse.Namespace(json=None, plot=None), ACKS, "another text") == 0
    assert capsys.readouterr().out == "another text\n\na note\n"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(QmpctlError, match=f"^{tmp_path}: Is a directory$"):
        give(argparse.Namespace(json=tmp_path, plot=None), ACKS)


@pytest.mark.slow
def test_distributions_are_drawn(tmp_path: Path) -> None:
    plot(ACKS, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml")
    for words in ("qmpctl bench cancel: ", "to the ack", "to the wake", "part of the samples"):
        assert words in text
    assert text.count(">event</text>") == 2
    assert text.count(">poll</text>") == 1
    plot(ACKS, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text


@pytest.mark.slow
def test_a_server_has_one_color(tmp_path: Path) -> None:
    names = [f"server {number}" for number in range(COLORS + 1)]
    first = [Series(name, "first", [1.0, 2.0], [0.0, 1.0]) for name in names[:-1]]
    second = [Series(name, "second", [1.0, 2.0], [0.0, 1.0]) for name in names[::-1]]
    plot(Result("any", "colors", "", first + second), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    # In each of both panels: a curve, and a line of the legend.
    assert text.count("stroke: #ff7f0e") == 4
    assert text.count("stroke: #1f77b4") == 6
    assert text.count("stroke-dasharray") == 2


@pytest.mark.slow
def test_courses_are_drawn(tmp_path: Path) -> None:
    plot(COURSE, tmp_path / "course.svg")
    text = (tmp_path / "course.svg").read_text()
    for words in (">MB/s</text>", ">s</text>", ">ours</text>", ">limit</text>", "{10^{2}}"):
        assert words in text, words
    assert "part of the samples" not in text
    # Points that would lie on each other are left out.
    assert max(path.count("L") for path in re.findall(r' d="([^"]*)"', text)) == POINTS


@pytest.mark.slow
def test_a_bitmap_is_drawn(tmp_path: Path) -> None:
    plot(ACKS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
