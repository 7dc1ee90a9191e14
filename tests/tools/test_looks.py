"""Looks from answers of a source that is asked from outside."""

from dataclasses import replace
from typing import Any

import pytest

from qmpserver.migration.policies.policy import MB, Look
from qmpserver.tools.figures import Figures
from qmpserver.tools.looks import Looks

START = Figures("active", 1.0, 512 * MB, 400 * MB, 100 * MB, 128.0, 0.0, 1)


def looks(bandwidth: float = 100 * MB) -> Looks:
    return Looks(total_time=10, downtime_limit=0.3, bandwidth=bandwidth, switchover_bandwidth=9)


def take(made: Looks, figures: Figures, *rates: float, limit: int = 0) -> Look:
    look = made.take(figures, [rate * MB for rate in rates], [limit] * len(rates))
    assert look is not None
    return look


def later(figures: Figures, seconds: float, sent: float = 0.0, **changes: Any) -> Figures:
    """The figures after so many seconds in which so many MB were sent."""
    return replace(
        figures,
        **{
            "seconds": figures.seconds + seconds,
            "sent": figures.sent + round(sent * MB),
            "remaining": figures.remaining - round(sent * MB),
            **changes,
        },
    )


def test_the_first_look() -> None:
    look = take(looks(), START, 50, 20, limit=60)
    assert (look.time, look.pending, look.sent, look.rounds) == (1.0, 400 * MB, 100 * MB, 1)
    assert (look.unharvested, look.added, look.bandwidth) == (70 * MB, 0, 100 * MB)
    assert (look.rates, look.limits) == ((50 * MB, 20 * MB), (60, 60))
    assert (look.total_time, look.downtime_limit, look.switchover_bandwidth) == (10, 0.3, 9)


def test_dirty_bytes_are_estimated_between_synchronizations() -> None:
    made = looks()
    take(made, START, 50)
    figures = later(START, 0.5, 64)
    assert take(made, figures, 50, 20).unharvested == 85 * MB
    look = take(made, later(figures, 0.5, 64), 30)
    assert (look.unharvested, look.added) == (100 * MB, 0)


def test_a_limited_vcpu_runs_free_until_its_ring_is_full() -> None:
    made = looks()
    made.take(START, [20.0 * MB], [20], [400.0 * MB])
    synced = later(START, 0.02, remaining=START.remaining + round(20.2 * MB), rounds=2)
    for figures, dirty in (
        (synced, 4),  # half of the time at 400 MB/s
        (later(synced, 0.02), 12),
        (later(synced, 0.1), 16),
        (later(synced, 1.0), 20.2),
    ):
        look = made.take(figures, [20.0 * MB], [20], [400.0 * MB])
        assert look is not None
        assert look.unharvested == pytest.approx(dirty * MB)


def test_a_synchronization() -> None:
    """Half of the time between two looks is taken to be after it."""
    made = looks()
    take(made, START, 100)
    figures = later(START, 3.0, 380)
    take(made, figures, 100)
    synced = later(figures, 0.1, 10, remaining=300 * MB, rounds=2)
    look = take(made, synced, 100)
    assert (look.rounds, look.added) == (2, 290 * MB)
    assert look.unharvested == 5 * MB


def test_no_more_is_dirty_than_all_of_ram() -> None:
    made = looks()
    take(made, START, 1500)
    assert take(made, later(START, 1.0, 100), 1500).unharvested == 512 * MB


def test_a_working_set_is_known_once_a_synchronization_has_shown_it() -> None:
    """The rates would make it 1500 MB in each second."""
    made = looks()
    take(made, START, 1500)
    figures = later(START, 1.0, 100, remaining=20 * MB + START.remaining - 100 * MB, rounds=2)
    assert take(made, figures, 1500).added == 20 * MB
    figures = later(figures, 1.0, 100)
    assert take(made, figures, 1500).unharvested == 20 * MB
    figures = later(figures, 0.1, 0, remaining=figures.remaining + 500 * MB, rounds=3)
    assert take(made, figures, 500).added == 520 * MB
    assert take(made, later(figures, 0.4), 500).unharvested == 225 * MB, "it has grown"


def test_the_bandwidth_is_that_of_the_last_looks() -> None:
    made, figures = looks(), START
    take(made, figures, 0)
    for sent in (50, 0, 10, 0, 5, 15, 5, 15):
        assert take(made, figures, 0).bandwidth == 100 * MB, "the configured one"
        figures = later(figures, 0.1, sent)
    take(made, figures, 0)
    for sent in (9, 9):
        figures = later(figures, 0.1, sent)
        look = take(made, figures, 0)
    assert look.bandwidth == pytest.approx(118 / 0.8 * MB)
    for sent in (9,) * 8:
        figures = later(figures, 0.1, sent)
        look = take(made, figures, 0)
    assert look.bandwidth == pytest.approx(90 * MB)


def test_zero_pages_tell_nothing_about_the_bandwidth() -> None:
    made = looks(bandwidth=0)
    skipped = later(START, 0.1, 1, remaining=START.remaining - 200 * MB)
    assert made.take(START, [0.0], [0]) is None
    assert made.take(skipped, [0.0], [0]) is None
    assert take(made, later(skipped, 0.1, 9), 0).bandwidth == pytest.approx(90 * MB)


def test_without_figures_there_is_no_look() -> None:
    assert looks().take(Figures("active"), [0.0], [0]) is None
