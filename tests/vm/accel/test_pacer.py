"""pacer.h: simulated guests at many speeds and limits, on a clock of their own."""

from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.vm.accel.native.build import _declarations

if TYPE_CHECKING:
    from tests.conftest import CLibrary

FUNCTIONS = """
void start(struct pacer *p, uint64_t limit, uint64_t now);
void replace(struct pacer *p, uint64_t limit, uint64_t now);
void skip(struct pacer *p, uint64_t ns);
void charge(struct pacer *p, uint64_t pages, uint64_t ran_ns, uint64_t now);
uint64_t next_look(const struct pacer *p, uint64_t now);
"""
SOURCE = f"""
#include "pacer.h"
{FUNCTIONS}
void start(struct pacer *p, uint64_t limit, uint64_t now) {{ pacer_set(p, limit, false, now); }}
void replace(struct pacer *p, uint64_t limit, uint64_t now) {{ pacer_set(p, limit, true, now); }}
void skip(struct pacer *p, uint64_t ns) {{ pacer_skip(p, ns); }}
void charge(struct pacer *p, uint64_t pages, uint64_t ran_ns, uint64_t now)
{{ pacer_charge(p, pages, ran_ns, now); }}
uint64_t next_look(const struct pacer *p, uint64_t now) {{ return pacer_next_look(p, now); }}
"""
SECOND, MS = 1_000_000_000, 1_000_000
PAGES_PER_MB = 256
LARGEST = (1 << 64) - 1
SLICE, SHORTEST_LOOK = 30 * MS, MS // 10
SPEEDS = [1_000, 3_300, 13_000]  # MB/s
LIMITS = [1, 5, 10, 37, 100, 800]


@pytest.fixture(scope="module")
def native(c_library: "CLibrary") -> Any:
    return c_library(_declarations("pacer.h") + FUNCTIONS, SOURCE)


class Guest:
    """A vCPU as vcpu.c runs one: it dirties `speed` MB/s of new pages while it may run.

    With a `working_set` (in pages) it finds nothing new once it has touched all of it, until the
    ring is reset, a second after the last reset.
    """

    def __init__(
        self, native: Any, limit: int, speed: float, working_set: int | None = None
    ) -> None:
        ffi, self.lib = native
        self.pacer = ffi.new("struct pacer *")
        self.speed = speed * PAGES_PER_MB / SECOND
        self.working_set = working_set
        self.start = self.now = 1000 * SECOND
        self.pages = 0
        self.pauses: list[tuple[int, int]] = []  # when, how long
        self.looks = 0
        self._fraction = 0.0
        self._fresh = 0  # pages of the working set that were touched since the reset
        self._reset = self.now + SECOND
        self.lib.start(self.pacer, limit, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + round(seconds * SECOND)
        while self.now < end:
            look = self.lib.next_look(self.pacer, self.now)
            assert look >= self.now + SHORTEST_LOOK
            assert look <= self.now + SECOND
            before, entered = self.pages, self.now
            self._run_until(look)
            self.looks += 1
            self.lib.charge(self.pacer, self.pages - before, self.now - entered, self.now)
            if self.pacer.paid_until > self.now:
                self.pauses.append((entered, self.pacer.paid_until - self.now))
                self.now = self.pacer.paid_until
                self.lib.charge(self.pacer, 0, 0, self.now)
                assert self.pacer.paid_until <= self.now

    def _run_until(self, look: int) -> None:
        while self.now < look:
            while self.now >= self._reset:
                self._reset += SECOND
                self._fresh = 0
            until = min(look, self._reset)
            found = (until - self.now) * self.speed + self._fraction
            self._fraction = found % 1
            new = int(found)
            if self.working_set is not None:
                new = min(new, self.working_set - self._fresh)
                self._fresh += new
            self.pages += new
            self.now = until

    @property
    def rate(self) -> float:
        return self.pages / PAGES_PER_MB / ((self.now - self.start) / SECOND)


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("limit", LIMITS)
def test_a_greedy_guest_gets_its_limit(native: Any, limit: int, speed: int) -> None:
    guest = Guest(native, limit, speed)
    guest.run(100)
    assert guest.rate == pytest.approx(min(limit, speed), rel=0.001)


@pytest.mark.parametrize("limit", [3, 7, 997])
def test_no_nanosecond_is_lost(native: Any, limit: int) -> None:
    """After any time what was charged is what the pages cost, to the nanosecond."""
    guest = Guest(native, limit, 3_300)
    guest.run(30)
    cost = guest.pages * SECOND // PAGES_PER_MB // limit
    assert abs(guest.pacer.paid_until - guest.start - cost) <= 1


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("limit", LIMITS)
def test_pauses_are_short(native: Any, limit: int, speed: int) -> None:
    """About a slice, or what the shortest look that is worth its exit lets a fast guest dirty."""
    guest = Guest(native, limit, speed)
    guest.run(1)
    guest.pauses.clear()
    guest.run(20)
    unavoidable = SHORTEST_LOOK * speed / limit
    assert max(pause for _, pause in guest.pauses) < max(2 * SLICE, 1.1 * unavoidable)


@pytest.mark.parametrize("speed", [1_000, 2_000, 3_300, 5_500])
@pytest.mark.parametrize("limit", [10, 25, 100, 400])
def test_pauses_from_10_mb_per_second_on(native: Any, limit: int, speed: int) -> None:
    guest = Guest(native, limit, speed)
    guest.run(20)
    assert max(pause for _, pause in guest.pauses) < 60 * MS


def test_a_guest_that_suddenly_runs_fast_is_caught(native: Any) -> None:
    guest = Guest(native, 100, 50)
    guest.run(5)
    assert not guest.pauses
    guest.speed *= 60
    guest.run(5)
    # It may use up its second of credit, and was believed to be as slow as is ever believed.
    assert max(pause for _, pause in guest.pauses[1:]) < 2 * SLICE
    assert guest.pauses[0][1] < 4 * SECOND


def test_looks_cost_little(native: Any) -> None:
    guest = Guest(native, 100, 1_500)
    guest.run(10)
    assert guest.looks < 10 * 50


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("speed", [1_000, 3_300, 13_000])
def test_a_guest_within_its_budget_is_left_alone(native: Any, speed: int, share: float) -> None:
    """Its credit grows by what it leaves unused; once that is a working set, it is never held."""
    limit = 100
    guest = Guest(native, limit, speed, working_set=round(limit * PAGES_PER_MB * share))
    credit_after = max(1.0, share / (1 - share)) * SECOND
    guest.run(30)
    late = [pause for when, pause in guest.pauses if when > guest.start + credit_after]
    assert not late
    assert guest.rate == pytest.approx(limit * share, rel=0.05)


def test_a_slow_guest_is_never_held(native: Any) -> None:
    guest = Guest(native, 100, 99)
    guest.run(20)
    assert not guest.pauses


def test_idling_buys_one_second_of_credit_and_no_more(native: Any) -> None:
    guest = Guest(native, 100, 0)
    guest.run(60)
    guest.speed = 3_300 * PAGES_PER_MB / SECOND
    idle_until, guest.pauses = guest.now, []
    guest.run(5)
    assert guest.pages <= (5 + 1.1) * 100 * PAGES_PER_MB
    assert guest.pauses[0][0] >= idle_until


def test_the_first_limit_begins_without_debt_or_credit(native: Any) -> None:
    guest = Guest(native, 1, 3_300)
    guest.lib.charge(guest.pacer, 10 * PAGES_PER_MB, MS, guest.now)
    assert guest.pacer.paid_until == guest.now + 10 * SECOND
    guest.lib.start(guest.pacer, 100, guest.now + MS)
    assert guest.pacer.paid_until == guest.now + MS
    assert guest.pacer.remainder == 0


@pytest.mark.parametrize(
    ("old", "new", "debt", "kept"),
    [
        (10, 100, SECOND, SECOND // 10),
        (100, 10, SECOND // 20, SECOND // 2),
        (100, 1, SECOND, SECOND),  # no more than a second, or it would take minutes
        (10, 10, SECOND // 3, SECOND // 3),
        (LARGEST, 1, 1, SECOND),
        (1, LARGEST, SECOND, 0),
        (10, 100, -SECOND, 0),
        (100, 10, -SECOND // 2, 0),
        (
            LARGEST,
            100,
            -SECOND,
            0,
        ),  # its second of credit would make the first second twice the limit
    ],
)
def test_another_limit_keeps_the_debt_and_no_credit(
    native: Any, old: int, new: int, debt: int, kept: int
) -> None:
    guest = Guest(native, old, 3_300)
    guest.pacer.paid_until = guest.now + debt
    guest.lib.replace(guest.pacer, new, guest.now)
    assert guest.pacer.limit == new
    assert guest.pacer.paid_until == guest.now + kept


@pytest.mark.parametrize("limit", [10, 100])
def test_limits_that_alternate_are_held(native: Any, limit: int) -> None:
    guest = Guest(native, limit, 3_300)
    for number in range(400):
        guest.run(0.05)
        guest.lib.replace(guest.pacer, limit + number % 2, guest.now)
    assert guest.rate == pytest.approx(limit + 0.5, rel=0.02)


def test_stopped_time_earns_nothing(native: Any) -> None:
    guest = Guest(native, 100, 3_300)
    stopped = 0
    for _ in range(20):
        guest.run(0.5)
        guest.now += SECOND
        guest.lib.skip(guest.pacer, SECOND)
        stopped += SECOND
    seconds = (guest.now - guest.start - stopped) / SECOND
    assert guest.pages / PAGES_PER_MB / seconds == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("limit", [SECOND - 1, SECOND, 1 << 32, 1 << 63, LARGEST - 1, LARGEST])
def test_limits_beyond_any_memory(native: Any, limit: int) -> None:
    guest = Guest(native, limit, 13_000)
    guest.run(20)
    assert not guest.pauses
    assert guest.rate == pytest.approx(13_000, rel=0.001)
    assert guest.looks <= 21


def test_everything_at_once_charges_no_more_than_it_costs(native: Any) -> None:
    guest = Guest(native, 1, 1)
    guest.lib.charge(guest.pacer, 1 << 32, 1, guest.now)  # 16 TiB
    assert guest.pacer.paid_until - guest.now == (1 << 32) * SECOND // PAGES_PER_MB
