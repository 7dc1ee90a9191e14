"""The shared mathematics, and its use before a migration starts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpserver.migration.policies.arithmetic import live_seconds, loss, water_level
from qmpserver.migration.policies.forecast import Forecast, forecast
from qmpserver.migration.policies.policy import MB
from qmpserver.migration.policies.promise import Promise
from tests.migration.policies.simulator import Migration, Vcpu

RATES = st.lists(st.floats(0, 10_000), min_size=1, max_size=16)


@given(RATES, st.floats(0, 100_000))
def test_water_fills_exactly_the_total(demands: list[float], total: float) -> None:
    level = water_level(demands, total)
    through = sum(min(demand, level) for demand in demands)
    assert through == pytest.approx(min(total, sum(demands)), abs=1e-6)


@pytest.mark.parametrize(
    ("demands", "total", "level"),
    [
        ([1500, 30], 80, 50),
        ([1500, 30], 20, 10),
        ([math.inf, math.inf, 10], 70, 30),
        ([10, 10], 20, math.inf),
        ([10, 10], -5, 0),
        ([0, 5], 0, 0),
    ],
)
def test_level_of_the_water(demands: list[float], total: float, level: float) -> None:
    assert water_level(demands, total) == level


def test_loss() -> None:
    assert loss([10, 20], 20) == 0
    assert loss([0, 40, 80], 20) == pytest.approx(math.log(2) + math.log(4))


def test_live_seconds() -> None:
    assert live_seconds(512, 12, 128, 28) == 5
    assert live_seconds(12, 12, 0, 28) == 0
    assert live_seconds(512, 12, 128, 128) == math.inf


def ask(total: float = 5, downtime: float = 0.3, working_set: float = math.inf) -> Forecast:
    return forecast(
        data=512 * MB,
        bandwidth=128 * MB,
        rates=[1500 * MB, 10 * MB],
        downtime_limit=downtime,
        total_time=total,
        working_set=working_set * MB,
        overhead=0.002,
    )


def test_a_promise_with_time_to_spare() -> None:
    answer = ask(total=10)
    assert answer.possible
    assert answer.unlimited_total == math.inf
    assert answer.expected_total == 10
    assert answer.expected_downtime == pytest.approx(0.288)
    assert answer.level / MB == pytest.approx(128 - (512 - 0.286 * 128) / 9.712 - 10)
    assert list(answer.kept) == pytest.approx([answer.level / MB / 1500, 1])


def test_a_promise_that_cannot_be_kept() -> None:
    answer = ask(total=3.9)
    assert not answer.possible
    assert 4 < answer.shortest_total < 4.1
    assert answer.expected_total == answer.shortest_total
    assert answer.level == 0


def test_a_promise_that_is_shorter_than_the_pause() -> None:
    answer = ask(total=0.2)
    assert not answer.possible
    assert answer.level == 0


def test_a_working_set_that_fits_the_pause_needs_no_limit() -> None:
    answer = ask(total=4.1, working_set=20)
    assert answer.possible
    assert answer.kept == (1, 1)
    assert answer.expected_total == pytest.approx(4.002)
    assert answer.expected_downtime == pytest.approx(20 / 128 + 0.002)


def test_without_a_promise_the_guest_is_left_alone() -> None:
    answer = ask(total=0)
    assert answer.possible
    assert answer.kept == (1, 1)
    assert answer.expected_total == math.inf


@pytest.mark.parametrize("total", [5, 10])
def test_the_guest_keeps_at_least_the_forecast(total: float) -> None:
    guest = [Vcpu(256, lambda _time: 1500)]
    answer = forecast(
        data=512 * MB,
        bandwidth=128 * MB,
        rates=[1500 * MB],
        downtime_limit=0.1,
        total_time=total,
        overhead=0.002,
    )
    outcome = Migration(512, lambda _time: 128, guest, 0.1, total, cold_first=False).run(Promise())
    assert outcome.total == pytest.approx(answer.expected_total, rel=0.02)
    assert outcome.pause == pytest.approx(answer.expected_downtime, rel=0.2)
    assert outcome.wrote >= 0.98 * answer.kept[0] * 1500
