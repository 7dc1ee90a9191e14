"""How courses are judged: guests whose course is known."""

import random

import pytest

from qmpserver.bench.course import PAGES_PER_MB, SECOND, Course
from qmpserver.bench.limit import TIMELINE, TIMELINE_END_S, in_order, table

LOOK = 2_000_000


def course(*phases: tuple[float, float]) -> Course:
    """Make the course of a guest with so many MB/s for so many seconds, looked at unevenly."""
    rng = random.Random(1)
    times, pages = [0], [0]
    done, phase_end = 0.0, 0
    for rate, seconds in phases:
        phase_end += round(seconds * SECOND)
        while times[-1] < phase_end:
            step = min(LOOK + rng.randrange(LOOK // 2), phase_end - times[-1])
            done += rate * PAGES_PER_MB * step / SECOND
            times.append(times[-1] + step)
            pages.append(int(done))
    return Course(times, pages)


def test_an_exact_guest() -> None:
    exact = course((100, 6))
    assert exact.first_error(100) == pytest.approx(0, abs=0.002)
    assert exact.steady_error(100) == pytest.approx(0, abs=0.002)
    assert exact.steady_error(50) == pytest.approx(1, abs=0.004)
    assert exact.settling_time(100) == 0
    assert exact.longest_pause() < 0.004
    assert exact.rates(0.5) == pytest.approx([100] * 12, rel=0.02)


def test_a_guest_that_settles_late() -> None:
    late = course((300, 2.5), (100, 3.5))
    assert late.first_error(100) == pytest.approx(2, abs=0.01)
    assert late.steady_error(100) == pytest.approx(0.25, abs=0.01)
    assert late.settling_time(100) == pytest.approx(2.5, abs=0.15)
    assert late.settling_time(300) is None
    assert late.settling_time(95) is None


def test_a_pause_counts_wherever_it_is() -> None:
    for phases in (
        [(0, 0.5), (100, 5.5)],
        [(100, 3), (0, 0.5), (100, 2.5)],
        [(100, 5.5), (0, 0.5)],
    ):
        assert course(*phases).longest_pause() == pytest.approx(0.5, abs=0.01)


def test_settled_means_for_good() -> None:
    assert course((100, 3), (200, 1), (100, 3)).settling_time(100) == pytest.approx(4, abs=0.15)


def test_a_gap_between_samples_is_bridged() -> None:
    assert Course([0, 2 * SECOND, 4 * SECOND], [0, 512, 512]).rates(1) == [1, 1, 0, 0]


def test_orders() -> None:
    limits = (50, 5, 800, 100)
    assert in_order(limits, "rising") == [5, 50, 100, 800]
    assert in_order(limits, "falling") == [800, 100, 50, 5]
    assert sorted(in_order(limits, "random")) == [5, 50, 100, 800]
    assert in_order(limits, "random") == in_order(limits, "random")


def test_the_table_says_it() -> None:
    held = [
        ("one", 100, 0, course((100, 6))),
        ("other", 100, 0, course((150, 6))),
        ("one", 50, 0, course((50, 6))),
    ]
    heading, _, other_limit, row = table(held).splitlines()
    assert heading.index("one") < heading.index("other")
    assert row.startswith("| 100 MB/s on vCPU 0")
    assert "+50.00 % / +50.0 % / never / " in row
    assert "% / 0.0 s / " in row
    assert other_limit.split("|")[-2].strip() == "-"


def test_the_timeline_is_in_order() -> None:
    times = [when for when, _ in TIMELINE]
    assert times == sorted(times)
    assert times[-1] < TIMELINE_END_S
