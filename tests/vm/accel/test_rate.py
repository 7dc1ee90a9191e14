"""rate.h: a simulated sender, on a clock of its own."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.vm.accel.native.build import _declarations

if TYPE_CHECKING:
    from tests.conftest import CLibrary

FUNCTIONS = """
void set(struct rate *rate, uint64_t limit, uint64_t now);
void begin(struct rate *rate, uint64_t now);
uint64_t claim(struct rate *rate, uint64_t bytes, uint64_t now);
uint64_t slice(uint64_t limit, uint64_t most);
"""
SOURCE = f"""
#include "stream/rate.h"
{FUNCTIONS}
void set(struct rate *rate, uint64_t limit, uint64_t now) {{ rate_set(rate, limit, now); }}
void begin(struct rate *rate, uint64_t now) {{ rate_begin(rate, now); }}
uint64_t claim(struct rate *rate, uint64_t bytes, uint64_t now)
{{ return rate_claim(rate, bytes, now); }}
uint64_t slice(uint64_t limit, uint64_t most) {{ return rate_slice(limit, most); }}
"""
SECOND, MS = 1_000_000_000, 1_000_000
BATCH = 64 * 4096
LIMITS = [1_000, 1_000_003, 134_217_728, 1_250_000_000]


@pytest.fixture(scope="module")
def native(c_library: "CLibrary") -> Any:
    return c_library(_declarations("stream/rate.h") + FUNCTIONS, SOURCE)


class Link:
    """A sender that always has something to send, over a link that costs no time."""

    def __init__(self, native: Any, limit: int) -> None:
        ffi, self.lib = native
        self.rate = ffi.new("struct rate *")
        self.now = 1000 * SECOND
        self.lib.set(self.rate, limit, self.now)
        self.sent: list[tuple[int, int]] = []

    def run(self, ns: int) -> int:
        """Send for a time; return the bytes that were sent."""
        end, total = self.now + ns, 0
        while self.now < end:
            batch = max(1, self.lib.slice(self.rate.limit, BATCH))
            until = self.lib.claim(self.rate, batch, self.now)
            if until:
                assert until > self.now
                self.now = min(until, end)
            else:
                self.sent.append((self.now, batch))
                total += batch
        return total


@pytest.mark.parametrize("limit", LIMITS)
def test_the_limit_is_exact(native: Any, limit: int) -> None:
    link = Link(native, limit)
    batch = max(1, min(BATCH, limit // 500))
    assert link.run(SECOND) == pytest.approx(limit, abs=batch)
    assert link.run(9 * SECOND) == pytest.approx(9 * limit, abs=batch)


@pytest.mark.parametrize("limit", LIMITS)
def test_it_is_smooth(native: Any, limit: int) -> None:
    """Between 500 bytes a slice and a slice's bytes, there is something every 2 ms."""
    link = Link(native, limit)
    link.run(SECOND)
    times = [when for when, _ in link.sent]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) <= 2 * MS + 1


def test_no_limit(native: Any) -> None:
    link = Link(native, 0)
    assert [link.lib.claim(link.rate, BATCH, link.now) for _ in range(1000)] == [0] * 1000
    assert link.lib.slice(0, BATCH) == BATCH


def test_a_late_sender_catches_up_a_little(native: Any) -> None:
    link = Link(native, 100_000_000)
    link.run(SECOND)
    link.now += 15 * MS
    assert link.run(100 * MS) == pytest.approx(11_500_000, abs=BATCH)
    link.now += 10 * SECOND
    assert link.run(100 * MS) == pytest.approx(12_000_000, abs=BATCH)


def test_nothing_is_saved_up_between_passes(native: Any) -> None:
    link = Link(native, 100_000_000)
    link.run(SECOND)
    link.now += 10 * SECOND
    link.lib.begin(link.rate, link.now)
    assert link.run(100 * MS) == pytest.approx(10_000_000, abs=BATCH)


def test_debt_is_not_forgiven_by_a_new_pass(native: Any) -> None:
    link = Link(native, 1_000_000)
    assert link.lib.claim(link.rate, 1_000_000, link.now) == 0
    link.lib.begin(link.rate, link.now)
    assert link.lib.claim(link.rate, 1, link.now) == link.now + SECOND


def test_a_new_limit_takes_over_the_debt_in_bytes(native: Any) -> None:
    link = Link(native, 1_000_000)
    assert link.lib.claim(link.rate, 100_000, link.now) == 0
    assert link.lib.claim(link.rate, 1, link.now) == link.now + 100 * MS
    link.lib.set(link.rate, 10_000_000, link.now)
    assert link.lib.claim(link.rate, 1, link.now) == link.now + 10 * MS
    link.lib.set(link.rate, 1, link.now)
    assert link.lib.claim(link.rate, 1, link.now) == link.now + SECOND  # at most
    link.lib.set(link.rate, 0, link.now)
    assert link.lib.claim(link.rate, 1, link.now) == 0
    link.lib.set(link.rate, 5, link.now)
    assert link.lib.claim(link.rate, 1, link.now) == 0  # no limit leaves no debt
