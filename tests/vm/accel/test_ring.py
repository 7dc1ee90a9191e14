"""ring.h: the look-ahead, on rings made by hand."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import CLibrary

CDEF = """
struct kvm_dirty_gfn { uint32_t flags; uint32_t slot; uint64_t offset; };
struct ring { struct kvm_dirty_gfn *entries; uint32_t size; uint64_t fetch; };
uint64_t pushed(const struct ring *ring, uint64_t from);
"""
SOURCE = """
#include "ring.h"
uint64_t pushed(const struct ring *ring, uint64_t from);
uint64_t pushed(const struct ring *ring, uint64_t from) { return ring_pushed(ring, from); }
"""
FREE, DIRTY, RESET = 0, 1, 2


@pytest.fixture(scope="module")
def native(c_library: "CLibrary") -> Any:
    return c_library(CDEF, SOURCE)


class Ring:
    """A ring of which `fetch` entries were harvested and `filled` more were pushed.

    The last `harvested` entries before the fetch index wait for their reset.
    """

    def __init__(self, native: Any, size: int, fetch: int, filled: int, harvested: int = 0) -> None:
        self.ffi, self.lib = native
        self.size = size
        self.entries = self.ffi.new("struct kvm_dirty_gfn[]", size)
        self.ring = self.ffi.new("struct ring *", (self.entries, size, fetch))
        for index in range(fetch, fetch + filled):
            self[index] = DIRTY
        for index in range(max(fetch - harvested, 0), fetch):
            self[index] = RESET

    def __setitem__(self, index: int, flags: int) -> None:
        self.entries[index % self.size].flags = flags

    def pushed(self, since: int = 0) -> int:
        return int(self.lib.pushed(self.ring, since))


def fills(size: int) -> Iterator[tuple[int, int, int]]:
    """Every place of the fetch index, every fill, some harvested prefixes."""
    for fetch in (*range(2 * size), (1 << 32) - 3, (1 << 32) + 5, 1 << 40):
        for filled in range(size + 1):
            for harvested in {0, 1, size - filled}:
                if harvested <= min(size - filled, fetch):
                    yield fetch, filled, harvested


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_all_fills_and_wraps(native: Any, size: int) -> None:
    for fetch, filled, harvested in fills(size):
        ring = Ring(native, size, fetch, filled, harvested)
        assert ring.pushed() == fetch + filled, (fetch, filled, harvested)


def test_from_whatever_was_seen_last(native: Any) -> None:
    for fetch, filled, harvested in fills(16):
        ring = Ring(native, 16, fetch, filled, harvested)
        for since in range(max(fetch - 3, 0), fetch + filled + 1):
            assert ring.pushed(since) == fetch + filled, (fetch, filled, harvested, since)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 4096, 65536])
def test_rings_as_they_are_used(native: Any, size: int) -> None:
    rng = random.Random(size)
    for _ in range(60):
        filled = rng.choice([0, 1, size - 1, size, size - 64, rng.randrange(size)])
        fetch = rng.randrange(1 << 34)
        ring = Ring(native, size, fetch, filled, rng.randrange(size - filled + 1))
        assert ring.pushed() == fetch + filled
        assert ring.pushed(fetch + rng.randrange(filled + 1)) == fetch + filled


def test_during_a_harvest_never_more_than_was_pushed(native: Any) -> None:
    """The fetch index moves last: flags before it are released already."""
    fetch, filled, size = 100, 50, 64
    for released in range(filled + 1):
        ring = Ring(native, size, fetch, filled)
        for index in range(fetch, fetch + released):
            ring[index] = RESET
        for since in range(fetch, fetch + filled + 1):
            assert since <= ring.pushed(since) <= fetch + filled
        ring.ring.fetch = fetch + filled  # and what was missed is counted by the next look
        assert ring.pushed(fetch) == fetch + filled


def test_a_count_never_goes_back(native: Any) -> None:
    """Entries that are released while the fetch index is still old were counted before."""
    for fetch, filled, _ in fills(16):
        ring = Ring(native, 16, fetch, filled)
        seen = ring.pushed()
        for released in range(filled):
            ring[fetch + released] = RESET
            assert ring.pushed(seen) == seen == fetch + filled
        ring.ring.fetch = fetch + filled
        assert ring.pushed(seen) == seen


def test_an_entry_that_is_both_dirty_and_reset_was_pushed(native: Any) -> None:
    ring = Ring(native, 8, 3, 2)
    ring[4] = DIRTY | RESET
    assert ring.pushed() == 5


def test_growing_while_it_is_watched(native: Any) -> None:
    size, seen = 256, 7
    ring = Ring(native, size, 7, 0)
    for index in range(7, 7 + size):
        ring[index] = DIRTY
        seen = ring.pushed(seen)
        assert seen == index + 1
