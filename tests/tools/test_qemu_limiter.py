"""The numbers for QEMU's limiter, against a model of it."""

from dataclasses import dataclass, field

import pytest

from qmpserver.tools.qemu_limiter import FREE, LOWEST, Limiter

FULL = 1500.0  # MB/s


@dataclass
class Qemu:
    """One vCPU under QEMU's limiter, as it was observed."""

    speed: float = FULL
    fastest: float = FULL
    sleep: float = 0.0  # fills
    seen: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return 1 / (1 / self.speed + self.sleep / self.fastest)

    def second(self, quota: int) -> int:
        """Let a second pass; return its rate."""
        told = round(self.rate)
        self.seen.append(self.rate)
        if abs(quota - told) > 25:
            ratio = max(quota, told) / min(quota, told)
            step = ratio - 1 if ratio > 2 else 0.1
            self.sleep = min(99, max(0.0, self.sleep + (step if told > quota else -step)))
        return told


def follow(qemu: Qemu, limiter: Limiter, limit: int, seconds: int, now: float = 0.0) -> None:
    """Hold a limit for some seconds."""
    for second in range(seconds):
        limiter.quotas[0] = limiter.quota(0, limit)
        limiter.take(now + second * 1.2, [qemu.second(limiter.quotas[0])])


@pytest.mark.parametrize("limit", [30, 80, 200, 600])
def test_a_limit_holds_after_a_second(limit: int) -> None:
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, limit, 4)
    assert qemu.seen[1:] == pytest.approx([limit] * 3, rel=0.04)


@pytest.mark.parametrize(("before", "after"), [(40, 100), (100, 40), (300, 30), (30, 300)])
def test_a_change_of_the_limit_holds_after_a_second(before: int, after: int) -> None:
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, before, 3)
    follow(qemu, limiter, after, 4, now=10.0)
    assert qemu.seen[4:] == pytest.approx([after] * 3, rel=0.1)


def test_the_number_alone_does_not_raise_a_limit_in_a_second() -> None:
    """So the model is as slow as QEMU is."""
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, 30, 3)
    for _ in range(4):
        qemu.second(300)
    assert qemu.rate < 200


def test_a_vcpu_is_freed_in_one_step() -> None:
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, 50, 3)
    follow(qemu, limiter, 0, 2, now=10.0)
    assert limiter.quotas == [FREE]
    assert qemu.rate == FULL
    assert limiter.rates == pytest.approx([FULL])


def test_the_present_rate_is_known_before_it_is_told() -> None:
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, 50, 1)
    assert limiter.rates == pytest.approx([50])


def test_a_slow_vcpu_beside_a_fast_one() -> None:
    qemu, limiter = Qemu(speed=200), Limiter([200, FULL])
    for second in range(4):
        limiter.quotas = [limiter.quota(0, 60), FREE]
        limiter.take(second * 1.2, [qemu.second(limiter.quotas[0]), 1500])
    assert qemu.seen[1:] == pytest.approx([60] * 3, rel=0.04)


@pytest.mark.parametrize("limit", [1, 10, LOWEST])
def test_nothing_sleeps_for_long(limit: int) -> None:
    qemu, limiter = Qemu(), Limiter([FULL])
    follow(qemu, limiter, limit, 5)
    assert qemu.rate > 0.8 * LOWEST


def test_an_idle_vcpu() -> None:
    limiter = Limiter([0.0])
    limiter.take(1.0, [0])
    assert limiter.rates == [0]
    assert limiter.quota(0, 60) == 60
    assert limiter.quota(0, 5) == LOWEST
