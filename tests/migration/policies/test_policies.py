"""QEMU's policies, nova's and KubeVirt's: their rules, and the shape of their migrations.

Their guest is the one that was measured with QEMU 11.1.3: one vCPU at 1.5 GB/s over 256 MB, a link
of 128 MB/s, 300 ms.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpserver.migration.policies.auto_converge import AutoConverge
from qmpserver.migration.policies.dirty_limit import DirtyLimit
from qmpserver.migration.policies.policy import MB, Decision, Look, Policy
from qmpserver.migration.policies.precopy import Precopy
from qmpserver.migration.policies.promise import Promise
from qmpserver.migration.policies.ramp import Ramp
from qmpserver.migration.policies.stall import StallDetection
from qmpserver.migration.policies.stepped_downtime import SteppedDowntime
from tests.migration.policies.simulator import Migration, Outcome, Vcpu

LINK = 128.0
VCPUS = 2
POLICIES: list[Callable[[], Policy]] = [
    AutoConverge,
    lambda: DirtyLimit(20),
    Precopy,
    Promise,
    Ramp,
    StallDetection,
    SteppedDowntime,
]
BYTES = st.integers(0, 1 << 36)
RATES = st.floats(0, 1e11)
LOOKS = st.builds(
    Look,
    time=st.floats(0, 100),
    pending=BYTES,
    unharvested=BYTES,
    cold=BYTES,
    added=BYTES,
    sent=BYTES,
    rounds=st.integers(1, 1000),
    bandwidth=RATES,
    rates=st.tuples(*[RATES] * VCPUS),
    limits=st.tuples(*[st.integers(0, 100_000)] * VCPUS),
    throttle=st.integers(0, 99),
    downtime_limit=st.floats(0, 2000),
    total_time=st.just(0.0) | st.floats(0.001, 1e6),
    switchover_bandwidth=RATES,
    overhead=st.floats(0, 1),
)


def migrate(
    policy: Policy,
    *,
    rate: float = 1500,
    size: float = 256,
    downtime: float = 0.3,
    total: float = 0,
    give_up: float = 60,
    cold_first: bool = False,
    hot: float = 0,
) -> Outcome:
    guest = Vcpu(size, lambda _time: rate, hot=hot)
    migration = Migration(
        size + 6,
        lambda _time: LINK,
        [guest],
        downtime,
        total,
        cold_first=cold_first,
        look=0.01 if total else 0.1,
    )
    return migration.run(policy, give_up)


def look(
    time: float = 0, rounds: int = 1, *, pending: int = 256, sent: int = 0, added: int = 0
) -> Look:
    """Return figures in MB, at the start of a round."""
    return Look(
        time=time,
        pending=pending * MB,
        unharvested=0,
        added=added * MB,
        sent=sent * MB,
        rounds=rounds,
        bandwidth=LINK * MB,
        rates=(1500 * MB, 0),
        limits=(0, 0),
        downtime_limit=0.3,
    )


def allowed_pause(
    policy: Policy, time: float, rounds: int, longest: float, *, rest: int = 3072
) -> float:
    """Return the pause, in s, that a policy allows from the look on that is described."""
    figures = look(time, rounds, pending=rest)._replace(downtime_limit=longest)
    policy.decide(figures)

    def ends(milliseconds: int) -> bool:
        pending = int(milliseconds / 1000 * figures.bandwidth)
        return deepcopy(policy).decide(figures._replace(pending=pending)).switch_over

    return (bisect_left(range(1, 2000), True, key=lambda pause: not ends(pause))) / 1000


def assert_sensible(decision: Decision) -> None:
    assert len(decision.limits) in (0, VCPUS)
    assert all(isinstance(limit, int) and limit >= 0 for limit in decision.limits)
    assert 0 <= decision.throttle <= 99
    assert decision.expected_total >= 0
    assert decision.expected_downtime >= 0


@pytest.mark.slow
@given(st.sampled_from(POLICIES), st.lists(LOOKS, min_size=1, max_size=8))
def test_any_figures_get_an_answer(make: Callable[[], Policy], looks: list[Look]) -> None:
    """Also figures that no guest has: an error would end the migration."""
    policy = make()
    never_less = zip(
        *(sorted(getattr(look, name) for look in looks) for name in ("time", "added", "sent")),
        strict=True,
    )
    for figures, (time, added, sent) in zip(looks, never_less, strict=True):
        assert_sensible(policy.decide(figures._replace(time=time, added=added, sent=sent)))


def test_precopy_never_ends_on_a_greedy_guest() -> None:
    outcome = migrate(Precopy(), give_up=15)
    assert outcome.total == math.inf
    assert outcome.trace[-1][1].expected_total == math.inf


def test_precopy_ends_on_a_guest_below_the_bandwidth() -> None:
    outcome = migrate(Precopy(), rate=60)
    assert outcome.total == pytest.approx((262 - 0.3 * LINK) / (LINK - 60) + 0.3, rel=0.05)
    assert outcome.pause < 0.6 * 0.3  # the last round is sent to its end while the guest runs
    assert outcome.pause <= 0.3
    expected = [decision.expected_total for now, decision, _ in outcome.trace if now > 0.3]
    assert expected == pytest.approx([outcome.total] * len(expected), rel=0.1)


def test_precopy_does_not_harvest_within_a_round() -> None:
    outcome = migrate(Precopy(), rate=60)
    harvests = [figures for _, decision, figures in outcome.trace if decision.harvest]
    assert harvests
    assert all(figures.pending <= figures.sendable(0.3) for figures in harvests)


@pytest.mark.slow
def test_auto_converge_ends_late_and_sends_much() -> None:
    outcome = migrate(AutoConverge())
    assert 25 < outcome.total < 45  # measured: 34.5 to 37.8 s
    assert 3500 < outcome.sent < 5000  # measured: 4100 MB
    throttles = {decision.throttle for _, decision, _ in outcome.trace}
    assert throttles == {0, *range(20, 100, 10), 99}


@pytest.mark.slow
def test_dirty_limit_is_sooner_the_lower_it_is() -> None:
    outcomes = [migrate(DirtyLimit(limit)) for limit in (20, 50, 80, 100)]
    totals = [outcome.total for outcome in outcomes]
    assert totals == sorted(totals)
    assert totals[0] < 10
    assert totals[3] > 1.5 * totals[1]
    assert [outcome.sent for outcome in outcomes] == sorted(outcome.sent for outcome in outcomes)


def test_the_promise_is_sooner_and_lets_the_guest_write_more() -> None:
    ours = migrate(Promise(), total=5, cold_first=True)
    best = migrate(DirtyLimit(20))
    assert ours.total < best.total
    assert ours.wrote > 1.3 * best.wrote


@pytest.mark.slow
@pytest.mark.parametrize("rate", [400, 1500])
def test_hot_spots_are_not_sent_over_and_over(rate: float) -> None:
    ours = migrate(Promise(), rate=rate, downtime=0.1, total=3.5, hot=0.1, cold_first=True)
    best = migrate(DirtyLimit(20), rate=rate, downtime=0.1, hot=0.1)
    assert ours.total == pytest.approx(3.5, rel=0.02)
    assert ours.sent <= 0.8 * best.sent
    assert ours.wrote > best.wrote


class TestTrigger:
    """Two bad checks, at least a second apart."""

    def test_throttles_after_two_bad_checks(self) -> None:
        policy = AutoConverge(initial=30, increment=25, maximum=70)
        throttles = []
        for second in range(8):
            figures = look(second, 1 + second, sent=100 * second, added=51 * second)
            throttles.append(policy.decide(figures).throttle)
        assert throttles == [0, 0, 30, 30, 55, 55, 70, 70]

    def test_a_good_check_does_not_count(self) -> None:
        policy = DirtyLimit(7)
        added = [0, 60, 60, 60, 60, 120]
        limits = [
            policy.decide(look(second, 1 + second, sent=100 * second, added=total)).limits
            for second, total in enumerate(added)
        ]
        assert limits == [(0, 0)] * 5 + [(7, 7)]

    def test_rounds_shorter_than_a_second_are_checked_together(self) -> None:
        policy = AutoConverge()
        for tenth in range(20):
            figures = look(tenth / 10, 1 + tenth, sent=10 * tenth, added=10 * tenth)
            assert policy.decide(figures).throttle == 0
        figures = look(2.0, 21, sent=200, added=200)
        assert policy.decide(figures).throttle == 20

    def test_the_threshold_counts(self) -> None:
        policy = AutoConverge(trigger_threshold=90)
        for second in range(5):
            figures = look(second, 1 + second, sent=100 * second, added=89 * second)
            assert policy.decide(figures).throttle == 0

    def test_tailslow_adds_no_more_than_is_needed(self) -> None:
        policy = AutoConverge(tailslow=True)
        throttles = []
        for second in range(5):
            figures = look(second, 1 + second, sent=100 * second, added=52 * second)
            throttles.append(policy.decide(figures).throttle)
        assert throttles == [0, 0, 20, 20, 23]  # 80 % x 50 / 52 would be enough: 77 %

    def test_a_changed_limit_is_taken_up(self) -> None:
        policy = DirtyLimit(7)
        for second in range(3):
            policy.decide(look(second, 1 + second, sent=100 * second, added=60 * second))
        policy.limit = 9
        assert policy.decide(look(2.5, 3, sent=250, added=120)).limits == (9, 9)


class TestSteppedDowntime:
    """Nova's documented example: 10 steps of 30 s a GiB, 3 GiB, 400 ms."""

    @pytest.mark.parametrize(
        ("time", "allowed"), [(0, 0.040), (89, 0.040), (90, 0.076), (450, 0.220), (2000, 0.400)]
    )
    def test_allows_more_in_steps(self, time: float, allowed: float) -> None:
        assert allowed_pause(SteppedDowntime(delay=30), time, 1, 0.4) == pytest.approx(allowed)

    def test_gives_up_at_last_or_forces_the_end(self) -> None:
        figures = look(1601, 99)
        assert SteppedDowntime().decide(figures).abort
        decision = SteppedDowntime(force=True).decide(figures)
        assert decision.switch_over
        assert not decision.abort
        assert not SteppedDowntime(timeout=0).decide(figures).abort

    def test_ends_on_a_guest_that_leaves_too_much_for_the_first_step(self) -> None:
        outcome = migrate(SteppedDowntime(delay=1), rate=110, downtime=0.5)
        assert 0.05 < outcome.pause <= 0.5


class TestRamp:
    """The proposal's example: 150 ms to 1050 ms, 10 s apart, from the third round on."""

    @pytest.mark.parametrize(
        ("time", "allowed"), [(0, 0.15), (9.9, 0.15), (10, 0.3), (35, 0.6), (60, 1.05), (99, 1.05)]
    )
    def test_allows_more_in_steps(self, time: float, allowed: float) -> None:
        policy = Ramp()
        policy.decide(look(0, 3))
        assert allowed_pause(policy, time, 4, 1.05) == pytest.approx(allowed)

    def test_waits_for_the_third_round(self) -> None:
        assert allowed_pause(Ramp(), 99, 2, 1.05) == 0.15

    def test_ends_on_a_guest_close_to_the_bandwidth(self) -> None:
        outcome = migrate(Ramp(cooldown=1), rate=120, downtime=1.05)
        assert 0.3 < outcome.pause <= 1.05


class TestStallDetection:
    """A stall of 5 s instead of the proposal's 60."""

    def test_a_stall_allows_the_longest_pause(self) -> None:
        policy = StallDetection(progress_timeout=5)
        outcome = migrate(policy, size=90, downtime=0.9)
        assert 5 < outcome.total < 15
        assert 0.6 < outcome.pause <= 0.9

    def test_a_hopeless_one_is_given_up(self) -> None:
        outcome = migrate(StallDetection(progress_timeout=5), downtime=0.9)
        assert outcome.aborted

    def test_progress_is_no_stall(self) -> None:
        outcome = migrate(StallDetection(progress_timeout=5), rate=110, downtime=0.9)
        assert outcome.pause <= 0.3, "the pause before a stall"

    def test_waits_for_the_least_rest_seen(self) -> None:
        policy = StallDetection(progress_timeout=5)
        for time, rest in ((1, 100), (3, 90), (7, 100)):  # 7: no less than 100 5 s ago
            assert not policy.decide(look(time, time + 1, pending=rest)).switch_over
        assert allowed_pause(policy, 8, 9, 0.9, rest=95) == 0.3, "90 was seen"
        assert allowed_pause(policy, 9, 10, 0.9, rest=93) == 0.9

    def test_the_goal_is_relaxed_after_a_while(self) -> None:
        policy = StallDetection(progress_timeout=5)
        for time, rest in ((1, 100), (3, 90), (7, 100), (11, 100), (12, 100)):
            policy.decide(look(time, time + 1, pending=rest))
        assert allowed_pause(policy, 12.1, 13, 0.9) == 0.3
        assert allowed_pause(policy, 13, 14, 0.9, rest=100) == 0.9

    def test_gives_up_after_the_completion_timeout(self) -> None:
        policy = StallDetection(completion_timeout=40)
        assert not policy.decide(look(0, 1)).abort  # 256 MB: 10 s
        assert not policy.decide(look(9.9, 2)).abort
        assert policy.decide(look(10, 2)).abort
