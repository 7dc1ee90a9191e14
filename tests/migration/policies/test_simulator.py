"""The simulator behaves as the real limiter and the real sender do."""

import pytest

from qmpserver.migration.policies.policy import MB, Decision, Look
from tests.migration.policies.simulator import PAGE, STEP, Memory, Migration, Vcpu, pages


def greedy(size: float = 256, *, forgiving: bool = False) -> Vcpu:
    return Vcpu(size, lambda _time: 1500, forgiving=forgiving)


def run(vcpu: Vcpu, seconds: float, *, limits: tuple[int, ...] = (), harvest: float = 0) -> float:
    """Run a vCPU, with its limits set in turn each 10 ms; return the MB/s that it dirtied."""
    memory = Memory(pages(vcpu.size))
    for step in range(round(seconds / STEP)):
        if limits and step % 10 == 0:
            vcpu.set_limit(step * STEP, limits[step // 10 % len(limits)])
        if harvest and step % round(harvest / STEP) == 0:
            memory.reset()
        vcpu.run(step * STEP, memory, STEP)
    return vcpu.dirtied * PAGE / MB / seconds


@pytest.mark.parametrize("limit", [5, 50, 100, 400])
def test_the_limit_is_exact(limit: int) -> None:
    assert run(greedy(1 << 13), 10, limits=(limit,)) == pytest.approx(limit, rel=0.02)


def test_setting_a_limit_forgives_debts_if_told_to() -> None:
    assert run(greedy(2048), 5, limits=(50, 51)) == pytest.approx(50, rel=0.05)
    assert run(greedy(2048, forgiving=True), 5, limits=(50, 51)) > 65


def test_a_working_set_counts_anew_after_each_harvest() -> None:
    assert run(greedy(4), 5) * 5 == 4
    assert run(greedy(4), 5, harvest=0.1) == pytest.approx(40)


def test_a_paced_vcpu_below_its_limit_is_not_slowed() -> None:
    vcpu = Vcpu(64, lambda _time: 30, paced=True)
    run(vcpu, 10, limits=(35,), harvest=1)
    assert vcpu.touched == pytest.approx(vcpu.possible, rel=0.01)


class Recorder:
    """A policy that harvests each `interval` and never ends."""

    def __init__(self, interval: float) -> None:
        self.looks: list[Look] = []
        self._interval = interval
        self._harvested = 0.0

    def decide(self, look: Look) -> Decision:
        self.looks.append(look)
        if look.time - self._harvested < self._interval:
            return Decision()
        self._harvested = look.time
        return Decision(harvest=True)


@pytest.mark.parametrize("cold_first", [True, False])
def test_pages_are_neither_lost_nor_counted_twice(cold_first: bool) -> None:
    recorder = Recorder(0.25)
    migration = Migration(64, lambda _time: 20, [greedy(32)], 0.3, cold_first=cold_first)
    migration.run(recorder, 3)
    for look in recorder.looks:
        assert look.pending == 64 * MB + look.added - look.sent
        assert look.pending <= 64 * MB
        assert look.unharvested <= 32 * MB
    assert recorder.looks[-1].bandwidth == pytest.approx(20 * MB, rel=0.01)
    assert recorder.looks[-1].rounds == 1 + sum(
        after.time == before.time
        for before, after in zip(recorder.looks, recorder.looks[1:], strict=False)
    )


def test_cold_pages_are_sent_first() -> None:
    recorder = Recorder(0.1)
    Migration(64, lambda _time: 20, [greedy(32)], 0.3).run(recorder, 2)
    hot = [look for look in recorder.looks if look.time > 0.2]
    assert all(look.pending - look.cold == 32 * MB for look in hot if look.cold)
    assert hot[-1].cold == 0
