"""The dirty limit on the engine: it bites, it holds, it lets go at once, stop goes before it."""

import random
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from qmpserver.vm.accel.engine import VcpuState

if TYPE_CHECKING:
    from tests.conftest import Until
    from tests.vm.conftest import MakeRig, Rig

pytestmark = pytest.mark.serial

MS = 1_000_000


def rates(rig: "Rig", seconds: float) -> list[float]:
    """MB/s of each vCPU from now on."""
    start, before = time.monotonic(), rig.engine.pages()
    time.sleep(seconds)
    after, took = rig.engine.pages(), time.monotonic() - start
    return [(b - a) / 256 / took for a, b in zip(before, after, strict=True)]


def holds(rig: "Rig", *limits: int, seconds: float, share: float) -> None:
    """Check that each vCPU dirties its new limit within a share, or less without being throttled.

    A busy machine gives a vCPU less. It has no credit from before its limit, so never more.
    """

    def throttled_ns() -> list[int]:
        return [rig.engine.vcpu(index).throttle_time for index in range(len(limits))]

    before = throttled_ns()
    for limit, rate, was, now in zip(
        limits, rates(rig, seconds), before, throttled_ns(), strict=True
    ):
        assert rate <= (1 + share) * limit
        assert rate >= (1 - share) * limit or now - was < share * seconds * 1e9


def throttled(rig: "Rig", index: int = 0) -> bool:
    return rig.engine.vcpu(index).state is VcpuState.THROTTLED


def test_limits_hold(make_rig: "MakeRig") -> None:
    rig = make_rig(ring=1024)
    rig.limit(0, 100)
    rig.limit(1, 25)
    rig.engine.cont()
    rig.advance(100)
    holds(rig, 100, 25, seconds=1.2, share=0.25)
    assert rig.engine.limits() == [100, 25]
    assert all(rig.engine.vcpu(index).longest_pause < 500 * MS for index in range(2))


def test_a_new_limit_counts_at_once(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig(vcpus=1)
    rig.limit(None, 1)
    rig.engine.cont()
    until(lambda: throttled(rig))
    rig.limit(None, 200)
    holds(rig, 200, seconds=0.8, share=0.3)


def test_pages_between_two_limits_are_not_charged(make_rig: "MakeRig", until: "Until") -> None:
    """To pay for them, and for the old debt in full, would take minutes."""
    rig = make_rig(vcpus=1)
    rig.limit(0, 1)
    rig.engine.cont()
    until(lambda: throttled(rig))
    rig.cancel(0)
    rig.advance(20_000)
    rig.limit(0, 1)
    rig.advance(300)


def test_an_unchanged_limit_changes_nothing(make_rig: "MakeRig") -> None:
    """A manager that repeats a limit does not forgive the debt, and disturbs nobody."""
    rig = make_rig(vcpus=1)
    rig.limit(0, 5)
    rig.engine.cont()
    rig.advance(300)
    start, before = time.monotonic(), rig.engine.pages()[0]
    while time.monotonic() - start < 2:
        rig.limit(0, 5)
        time.sleep(0.02)
    rate = (rig.engine.pages()[0] - before) / 256 / (time.monotonic() - start)
    assert rate < 5 * 1.2


def test_stopped_time_earns_nothing(make_rig: "MakeRig") -> None:
    rig = make_rig(vcpus=1)
    rig.limit(0, 20)
    rig.engine.cont()
    rig.advance(300)
    pages, seconds = 0, 0.0
    for _ in range(4):
        rig.park()
        time.sleep(0.5)
        start, before = time.monotonic(), rig.engine.pages()[0]
        rig.engine.cont()
        time.sleep(0.4)
        rig.park()
        seconds += time.monotonic() - start
        pages += rig.engine.pages()[0] - before
    assert pages / 256 / seconds < 20 * 1.3


def test_the_quit_flag_decides(make_rig: "MakeRig", until: "Until") -> None:
    """Whatever else is set, no limit counts once it is."""
    rig = make_rig(vcpus=1)
    rig.limit(0, 1)
    rig.engine.cont()
    until(lambda: throttled(rig))
    rig.engine._ptr.limit.quit = 1
    wakes = rig.engine.reaper().last_idle_wake
    rig.engine.limit_kick(0)
    rig.advance(20_000)
    until(lambda: rig.engine.reaper().last_idle_wake > wakes)
    assert rig.engine.limits() == [1]
    assert rig.engine.limit_in_service


def test_one_limited_the_other_free(make_rig: "MakeRig") -> None:
    rig = make_rig()
    rig.limit(1, 10)
    rig.engine.cont()
    rig.advance(100)
    free, limited = rates(rig, 0.6)
    assert limited < 30
    assert free > 5 * limited
    assert rig.engine.limits() == [0, 10]


@pytest.mark.parametrize("controller", ["pacer", "qemu"])
def test_cancel_wakes_a_throttled_vcpu(
    make_rig: "MakeRig", until: "Until", controller: str
) -> None:
    rig = make_rig(vcpus=1, dirty_limit=controller)
    rig.engine.cont()
    late = []
    for _ in range(10):
        rig.limit(0, 1)  # what it overshoots by costs it long pauses
        until(lambda: throttled(rig))
        progress = rig.progress()[0]
        rig.cancel(0)
        until(lambda progress=progress: rig.progress()[0] > progress + 1000)
        vcpu = rig.engine.vcpu(0)
        assert vcpu.limit == 0
        late.append(vcpu.last_resume - rig.engine.last_cancel)
    assert min(late) > 0
    assert statistics.median(late) < 20 * MS


def test_the_event_reaper_wakes_with_the_cancel(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig(vcpus=1)
    rig.engine.cont()
    late = []
    for _ in range(10):
        before = rig.engine.reaper()
        rig.limit(None, 100)
        rig.cancel(None)
        assert rig.engine.reaper().kicks == before.kicks + 1
        until(lambda: rig.engine.reaper().last_idle_wake >= rig.engine.last_cancel)
        late.append(rig.engine.reaper().last_idle_wake - rig.engine.last_cancel)
    reaper = rig.engine.reaper()
    assert statistics.median(late) < 50 * MS
    assert reaper.wakes + reaper.coalesced_kicks == reaper.kicks
    until(lambda: rig.engine.reaper().turns == reaper.fallback_turns + reaper.wakes)
    # The histograms tell the same: bucket n is for 2^(n-1) to 2^n - 1 ns.
    assert sum(reaper.kick_to_wake) == reaper.wakes
    assert reaper.cancel_to_wake == [
        sum(wake.bit_length() == bucket for wake in late)
        for bucket in range(len(reaper.cancel_to_wake))
    ]


def test_a_cancel_that_leaves_a_limit_kicks_nobody(make_rig: "MakeRig") -> None:
    rig = make_rig()
    rig.engine.cont()
    rig.limit(None, 100)
    rig.cancel(0)
    assert rig.engine.limit_in_service
    assert rig.engine.limits() == [0, 100]
    assert rig.engine.reaper().kicks == 0
    rig.cancel(1)
    assert not rig.engine.limit_in_service
    assert rig.engine.reaper().kicks == 1


def test_the_polling_reaper_sleeps_its_second_out(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig(vcpus=1, reaper="poll")
    rig.engine.cont()
    until(lambda: rig.engine.reaper().turns == 1)
    before = rig.engine.reaper()
    rig.limit(None, 100)
    rig.cancel(None)
    until(lambda: rig.engine.reaper().last_idle_wake >= rig.engine.last_cancel)
    after = rig.engine.reaper()
    assert after.mode == "poll"
    assert after.kicks == 0
    assert sum(after.kick_to_wake) == 0
    assert sum(after.cancel_to_wake) == 1
    assert after.last_wake - before.last_wake >= 990 * MS


def test_a_vcpu_waits_for_tracking(make_rig: "MakeRig", until: "Until") -> None:
    """What it dirtied before the log is on would go uncounted."""
    rig = make_rig(vcpus=1, track=False)
    rig.limit(None, 1000)
    rig.engine.cont()
    until(lambda: rig.engine.vcpu(0).state is VcpuState.HOLDING)
    assert rig.engine.vcpu(0).throttled
    rig.track(True)
    rig.advance(1000)
    rig.track(False)
    until(lambda: rig.engine.vcpu(0).state is VcpuState.HOLDING)
    rig.cancel(None)
    rig.advance(1000)


def test_the_wait_for_tracking_is_bounded(make_rig: "MakeRig", until: "Until") -> None:
    """Switching the log of much RAM takes a second; charging begins when it is on."""
    rig = make_rig(vcpus=1, track=False)
    rig.limit(None, 1)
    rig.engine.cont()
    rig.advance(20_000)  # which would take a minute
    assert rig.engine.pages() == [0]
    rig.track(True)
    until(lambda: throttled(rig))
    assert rig.engine.vcpu(0).longest_pause < 3000 * MS


def test_a_limit_in_qemus_manner(make_rig: "MakeRig", until: "Until") -> None:
    """It only looks for a second, sleeps at full rings, and the next limit finds the sleep."""
    rig = make_rig(vcpus=1, dirty_limit="qemu")
    rig.limit(0, 60)
    rig.engine.cont()
    rig.advance(20_000)
    assert rig.engine.vcpu(0).throttle_count == 0
    until(lambda: throttled(rig))
    rig.cancel(0)
    rig.advance(20_000)
    throttles = rig.engine.vcpu(0).throttle_count
    start = time.monotonic()
    rig.limit(0, 60)
    until(lambda: rig.engine.vcpu(0).throttle_count > throttles)
    assert time.monotonic() - start < 0.9


def test_a_limit_holds_a_running_vcpu_before_any_kick(make_rig: "MakeRig", until: "Until") -> None:
    """The answer to the client goes between, and the vCPU must not run free meanwhile."""
    rig = make_rig(vcpus=1, track=False)
    rig.engine.cont()
    rig.advance(1000)
    rig.engine.limit_set(0, 10)
    until(lambda: rig.engine.vcpu(0).state is VcpuState.HOLDING)


@pytest.mark.parametrize("limit", [1, 100])
def test_stop_goes_before_a_throttle_wait(make_rig: "MakeRig", until: "Until", limit: int) -> None:
    rig = make_rig()
    rig.limit(None, limit)
    for _ in range(10):
        rig.engine.cont()
        until(lambda: throttled(rig) or throttled(rig, 1))
        start = time.monotonic()
        rig.park()
        assert time.monotonic() - start < 1
        progress = rig.progress()
        rig.limit(None, limit)
        assert rig.engine.count(VcpuState.PARKED) == 2
        assert rig.progress() == progress


def test_a_throttled_vcpu_runs_once_more_before_it_is_parked(
    make_rig: "MakeRig", until: "Until"
) -> None:
    """The guest of a migration stands still from the stop on, and not since a throttle began."""
    rig = make_rig(vcpus=1)
    rig.limit(0, 1)
    for _ in range(10):
        rig.engine.cont()
        until(lambda: throttled(rig))
        (before,) = rig.progress()
        rig.park()
        assert before < rig.progress()[0] < before + 5000


def test_kicks_do_not_take_the_last_run(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig(vcpus=1)
    rig.limit(0, 1)
    for _ in range(50):
        rig.engine.cont()
        until(lambda: throttled(rig))
        (before,) = rig.progress()
        rig.engine.stop()
        for _ in range(5):
            rig.engine.limit_kick(0)
        rig.wait_out()
        assert before < rig.progress()[0]
        (parked,) = rig.progress()
        rig.engine.limit_kick(0)
        assert rig.progress() == [parked]


def test_a_storm_of_limits_and_cancels(make_rig: "MakeRig") -> None:
    rng = random.Random(2)
    rig = make_rig(pattern="random", ring=1024)
    rig.engine.cont()
    for _ in range(3000):
        if rng.random() < 0.6:
            rig.limit(rng.choice([None, 0, 1]), rng.choice([1, 30, 3000, (1 << 64) - 1]))
        else:
            rig.cancel(rng.choice([None, 0, 1]))
        assert rig.engine.limit_in_service == any(rig.engine.limits())
        if rng.random() < 0.02:
            rig.engine.stop()
            rig.engine.cont()
    rig.cancel(None)
    rig.advance(20_000)
    assert rig.engine.limits() == [0, 0]
    assert rig.engine.reset_shortfalls == 0
    assert not any(rig.engine.vcpu(index).overflows for index in range(2))


def test_the_largest_limit_is_no_limit(make_rig: "MakeRig") -> None:
    rig = make_rig(vcpus=1)
    rig.limit(0, (1 << 64) - 1)
    rig.engine.cont()
    rig.advance(20_000)
    assert rig.engine.vcpu(0).throttle_count == 0
    assert rig.engine.limits() == [(1 << 64) - 1]


def test_a_small_working_set_is_not_punished(make_rig: "MakeRig") -> None:
    """It finds nothing new until the ring is reset, once a second."""
    rig = make_rig(vcpus=1, pages="200")
    rig.limit(0, 10)
    rig.engine.cont()
    rig.advance(100_000)
    assert rig.engine.vcpu(0).throttle_time < 500 * MS
