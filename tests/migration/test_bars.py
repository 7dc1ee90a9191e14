"""The program that measures the bars: its verdicts on runs that are given, and its store."""

from dataclasses import replace
from pathlib import Path

import pytest

from qmpserver.bench.converging import Conditions, Run
from qmpserver.bench.servers import Candidate
from qmpserver.bench.ways import WAYS, Way
from tests.migration import bars
from tests.migration.bars import Results, Row, Store, measure, rows

ROWS = {row.name: row for row in rows()}
GOOD = Run("completed", 4.7, 5.0, 0.28, 0.28, 640.0, (1500.0,), (90.0,), False)
NEVER = replace(GOOD, status="never", total=None, pause=None)


def verdict(name: str, *runs: list[Run]) -> tuple[bool, str]:
    """Return whether a row passes with these runs of its cases, and its words."""
    row = ROWS[name]
    results: Results = {case.name: made for case, made in zip(row.cases, runs, strict=True)}
    judged = row.judge(row, results)
    return judged.passed, "; ".join(judged.words)


def test_names_are_of_one_thing() -> None:
    assert len(ROWS) == len(rows())
    for row in rows():
        assert len({case.name for case in row.cases}) == len(row.cases)
        for case in row.cases:
            assert case.way in WAYS
            assert not case.like or case.like in [other.name for other in row.cases]


def test_a_promise_that_is_kept() -> None:
    runs = [GOOD] * 19 + [replace(GOOD, total=9.0, pause=0.4)]
    assert verdict("promise-5s-300ms-1", runs) == (
        True,
        "19 of 20 within 2%: median 5.00, worst 9.00 s; "
        "19 of 20 paused in time: median 280, worst 400 ms; wrote 90 of 84 MB/s (1.07)",
    )


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(GOOD, total=5.11), "**18 of 20 within 2%"),
        (replace(GOOD, pause=0.306), "**18 of 20 paused in time"),
        (NEVER, "worst inf s**"),
    ],
)
def test_a_promise_that_is_not_kept(bad: Run, said: str) -> None:
    passed, words = verdict("promise-5s-300ms-1", [GOOD] * 18 + [bad] * 2)
    assert not passed
    assert said in words


def test_a_guest_that_writes_too_little() -> None:
    slow = replace(GOOD, wrote=(40.0, 39.0))
    passed, words = verdict("promise-5s-300ms-2", [slow])
    assert (passed, "**wrote 79 of 84 MB/s (0.94)**" in words) == (False, True)


def test_a_total_that_the_forecast_refuses() -> None:
    refused = replace(GOOD, total=9.0, possible=False)
    assert verdict("tight-1", [refused]) == (True, "1 of 1 refused by the forecast")
    near = replace(GOOD, total=2.7, pause=0.1)
    assert verdict("tight-1", [refused, near])[0]
    assert not verdict("tight-1", [refused, replace(near, total=2.8)])[0]


def test_a_light_vcpu() -> None:
    two = replace(GOOD, before=(1500.0, 30.0), wrote=(54.0, 29.5))
    assert verdict("light", [two])[0]
    assert not verdict("light", [replace(two, wrote=(54.0, 29.0))])[0]


def test_a_working_set_that_fits() -> None:
    fast = replace(GOOD, total=2.05)
    assert verdict("fitting-8", [fast])[0]
    assert not verdict("fitting-8", [replace(fast, limited=True)])[0]
    assert not verdict("fitting-8", [replace(fast, total=2.2)])[0]


def test_a_link_that_changes() -> None:
    early = replace(GOOD, total=9.0)
    assert verdict("link-halved", [early])[0]
    assert not verdict("link-halved", [replace(early, total=10.3)])[0]


def test_a_promise_that_cannot_be_kept() -> None:
    told = replace(GOOD, total=4.0, changed=1.8, told=1.95)
    assert verdict("link-halved-late", [told])[1].startswith("1 of 1 told within 200 ms, worst 150")
    assert verdict("link-halved-late", [told])[0]
    for other in (replace(told, told=2.1), replace(told, told=None), replace(told, told=1.0)):
        assert not verdict("link-halved-late", [told, other])[0]


def test_a_hot_spot() -> None:
    few, many = replace(GOOD, sent=300.0), replace(GOOD, sent=400.0)
    assert verdict("hot-spot", [few], [many], [many])[0]
    assert not verdict("hot-spot", [few], [many], [replace(GOOD, sent=370.0)])[0]


def test_equal_time() -> None:
    theirs, mine = replace(GOOD, wrote=(60.0,)), replace(GOOD, wrote=(80.0,))
    assert verdict("equal-time", *[[theirs], [mine]] * 3)[0]
    assert not verdict("equal-time", *[[theirs], [mine]] * 2, [theirs], [theirs])[0]


def test_beside_qemu() -> None:
    slow = replace(GOOD, total=9.0, wrote=(60.0,))
    assert verdict("qemu", [GOOD], [NEVER], *[[slow]] * 4)[0]
    assert not verdict("qemu", [GOOD], [NEVER], *[[slow]] * 3, [replace(slow, total=4.9)])[0]
    assert not verdict("qemu", [GOOD], [NEVER], *[[slow]] * 3, [replace(slow, wrote=(95.0,))])[0]


def test_runs_that_are_stored_are_not_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    goals: list[tuple[str, float]] = []

    def converge(server: Candidate, _way: Way, conditions: Conditions) -> Run:
        goals.append((server.name, conditions.within))
        if len(goals) == 9:
            raise KeyboardInterrupt
        return replace(GOOD, total=10.0 if server.name == "QEMU" else 7.0)

    monkeypatch.setattr(bars, "converge", converge)
    path, row = tmp_path / "bars.json", ROWS["equal-time"]
    with pytest.raises(KeyboardInterrupt):
        measure(row, 2, Store(path))
    assert goals[:2] == [("QEMU", 5.0), ("qmpserver", 10.0)]
    store = Store(path)
    assert (
        store.of(row)[row.cases[0].name]
        == [replace(GOOD, total=10.0, before=[1500.0], wrote=[90.0])] * 2
    )
    measure(row, 2, store)
    assert len(goals) == 9 + 4
    measure(row, 2, Store(path))
    assert len(goals) == 9 + 4
    measure(row, 100, Store(path))
    assert len(goals) == 9 + 4 + 3 * 6


def test_a_row_that_was_measured() -> None:
    row: Row = ROWS["promise-5s-300ms-1"]
    name, _bar, words, passed = bars.line(row, {row.cases[0].name: [GOOD]})
    assert (name, passed) == (row.name, "pass")
    assert words.startswith("1 of 1 within 2%")
    assert bars.line(row, {row.cases[0].name: [NEVER]})[-1] == "**FAIL**"
