"""The model of a migration, against cases computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import (  # examples/converge/model.py
    GIVE_UP_S,
    AutoConverge,
    DirtyLimit,
    DowntimeRamp,
    Remedy,
    Trace,
    dirtied,
    level,
    migrate,
)


def test_rounds_are_a_geometric_series() -> None:
    outcome = migrate(Trace(0.1, 512, [[150, 50]]), 400, Remedy(0.3))
    assert outcome.converged
    assert [mb for _, mb in outcome.remaining] == pytest.approx([512, 256, 128, 64])
    assert [s for s, _ in outcome.remaining] == pytest.approx([0, 1.28, 1.92, 2.24])
    assert outcome.downtime == pytest.approx(64 / 400)
    assert outcome.seconds == pytest.approx(2.4)
    assert outcome.lost == pytest.approx(outcome.downtime)


@given(
    st.floats(0.01, 0.95), st.floats(1, 10_000), st.floats(10, 100_000), st.floats(0.0001, 0.999)
)
def test_number_of_rounds_follows_the_formula(
    q: float, bandwidth: float, ram: float, goal: float
) -> None:
    outcome = migrate(Trace(GIVE_UP_S, ram, [[q * bandwidth]]), bandwidth, Remedy(goal))
    exact = max(0.0, math.log(bandwidth * goal / ram) / math.log(q))
    rounds = len(outcome.remaining) - 1
    if outcome.converged and abs(exact - round(exact)) > 1e-6:
        assert rounds == math.ceil(exact)
    assert outcome.converged or outcome.seconds >= GIVE_UP_S


def test_dirtying_faster_than_copying_never_converges() -> None:
    outcome = migrate(Trace(0.1, 512, [[500]]), 400, Remedy(0.3))
    assert not outcome.converged
    assert {mb for _, mb in outcome.remaining} == {512}  # no more than there is
    assert GIVE_UP_S <= outcome.seconds < GIVE_UP_S + 512 / 400
    assert (outcome.downtime, outcome.lost) == (0, 0)


def test_a_trace_is_integrated_and_begins_again() -> None:
    trace = Trace(0.1, 1000, [[100, 0], [300, 100]])
    mb, lost = dirtied(trace, 0.05, 0.25, DirtyLimit(0.3, 150))
    assert mb == pytest.approx(0.05 * 100 + 0.1 * (150 + 100) + 0.05 * 100)
    assert lost == pytest.approx(0.1 * (1 - 150 / 300) / 2)  # one of two vCPUs, for 0.1 s
    assert dirtied(trace, 0, 100, Remedy(0.3)) == (1000, 0)


@pytest.mark.parametrize(
    ("rates", "total", "limit"),
    [
        ([100, 300, 500], 600, 250),  # 100 + 250 + 250
        ([100, 300, 500], 900, None),
        ([100, 300, 500], 899, 499),
        ([100, 300, 500], 300, 100),
        ([100, 300, 500], 100, 33),
        ([700], 0.5, 1),
        ([0, 0], 10, None),
    ],
)
def test_level(rates: list[float], total: float, limit: int | None) -> None:
    assert level(rates, total) == limit


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=16), st.floats(1, 1e6))
def test_level_is_as_high_as_may_be(rates: list[float], total: float) -> None:
    limit = level(rates, total)
    if limit is None:
        assert sum(rates) <= total * (1 + 1e-9)
    elif limit > 1:
        assert sum(min(rate, limit) for rate in rates) <= total * (1 + 1e-9)
        assert sum(min(rate, limit + 1) for rate in rates) > total * (1 - 1e-9)


def test_dirty_limit() -> None:
    outcome = migrate(Trace(0.1, 512, [[1000, 1000]]), 400, DirtyLimit(0.3, 100))
    assert [mb for _, mb in outcome.remaining] == pytest.approx([512, 256, 128, 64])
    assert outcome.lost == pytest.approx(2.24 * 0.9 + 0.16)


def test_a_limit_that_is_too_high_is_halved() -> None:
    remedy = DirtyLimit(0.3, 300)
    outcome = migrate(Trace(0.1, 400, [[1000, 1000]]), 400, remedy)
    assert remedy.limit == 150
    # Of all RAM 600 of 400 are dirtied; then 300 a second of the 400, and so on by 3/4.
    assert [mb for _, mb in outcome.remaining][:4] == pytest.approx([400, 400, 300, 225])
    assert outcome.converged
    none = DirtyLimit(0.3)
    none.step(400, 400, 1)
    assert none.limit == 200


def test_auto_converge() -> None:
    remedy = AutoConverge(0.1)
    outcome = migrate(Trace(0.1, 400, [[400]]), 400, remedy)
    # It looks at the end of rounds 0, 1 (20 %), 2, 4 (30 %: 1.44 s have passed), and 7.
    factors = [1, 1, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7]
    remaining = [400.0]
    for factor in factors:
        remaining.append(remaining[-1] * factor)
    assert [mb for _, mb in outcome.remaining] == pytest.approx(remaining)
    assert remaining[-1] == pytest.approx(34.420736)
    assert outcome.downtime == pytest.approx(0.08605184)
    lost = sum((1 - f) * mb / 400 for f, mb in zip(factors, remaining, strict=False))
    assert lost == pytest.approx(0.488 + 0.42594816)
    assert outcome.lost == pytest.approx(lost + outcome.downtime)
    assert remedy.throttle == pytest.approx(0.3)


def test_auto_converge_has_its_end() -> None:
    remedy = AutoConverge(0.1)
    steps = []
    for _ in range(24):
        remedy.step(100, 51, 1)
        steps.append(round(remedy.throttle, 2))
    assert steps[1::2] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.99, 0.99, 0.99]
    calm = AutoConverge(0.1)
    for _ in range(9):
        calm.step(100, 50, 1)  # no more than half
    assert calm.throttle == 0


def test_downtime_ramp() -> None:
    outcome = migrate(Trace(0.1, 400, [[800]]), 400, DowntimeRamp(0.3))
    # 0.3, 0.6, 1.2 s: all RAM needs 1 s.
    assert len(outcome.remaining) == 3
    assert outcome.downtime == outcome.lost == pytest.approx(1)
    assert outcome.seconds == pytest.approx(3)
    assert not migrate(Trace(0.1, 800, [[800]]), 400, DowntimeRamp(0.3, most=1.9)).converged
