"""qemu_throttle.h: what QEMU itself did with the same rates, and a simulated guest's windows."""

from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.vm.accel.native.build import _declarations

if TYPE_CHECKING:
    from tests.conftest import CLibrary

FUNCTIONS = """
void init(struct controller *c, enum controller_kind kind, uint32_t ring_size);
void start(struct controller *c, uint64_t limit, uint64_t now);
uint64_t charge(struct controller *c, uint64_t pages, uint64_t ran_ns, bool full, uint64_t now);
uint64_t next_look(const struct controller *c, uint64_t now);
void correct(struct qemu_throttle *t, uint64_t rate);
"""
SOURCE = f"""
#include "controller.h"
{FUNCTIONS}
void init(struct controller *c, enum controller_kind kind, uint32_t ring_size)
{{ controller_init(c, kind, ring_size); }}
void start(struct controller *c, uint64_t limit, uint64_t now)
{{ controller_set(c, limit, false, now); }}
uint64_t charge(struct controller *c, uint64_t pages, uint64_t ran_ns, bool full, uint64_t now)
{{ return controller_charge(c, pages, ran_ns, full, now); }}
uint64_t next_look(const struct controller *c, uint64_t now)
{{ return controller_next_look(c, now); }}
void correct(struct qemu_throttle *t, uint64_t rate) {{ qemu_throttle_correct(t, rate); }}
"""
SECOND, MS = 1_000_000_000, 1_000_000
RING, SOFT_FULL = 4096, 4032
PAGES_PER_MB = 256

# QEMU 7.2 on KVM, ring size 4096, told by its trace events dirtyrate_do_calculate_vcpu and
# dirtylimit_vcpu_execute: after a limit was set, each window's rate and the sleep that followed.
RECORDED = [
    (400, [(1673, 30282), (398, 30282), (398, 30282), (399, 30282), (393, 30282)]),
    (400, [(366, 29326), (379, 29326), (392, 29326)]),
    (100, [(412, 58015), (242, 71221), (209, 81580), (177, 82536), (179, 83492), (178, 84448)]),
    (100, [(179, 85404), (178, 86360), (179, 87316)]),
    (50, [(173, 110728), (146, 128487), (126, 142831), (115, 155002), (116, 167173)]),
    (50, [(99, 168129), (94, 169085), (99, 170041)]),
    (700, [(99, 115851), (126, 72287), (210, 49974), (267, 35017), (368, 34061), (368, 33105)]),
    (700, [(383, 32149), (378, 31193), (399, 30237), (393, 29281)]),
    (10, [(412, 338484), (47, 372389), (52, 410641), (47, 444546), (52, 482798), (52, 521050)]),
    (10, [(35, 521050), (31, 521050)]),
    # Cancelled and set anew: the sleep is still there.
    (300, [(31, 443677), (47, 393472), (51, 346783), (52, 303219), (68, 271204), (68, 239189)]),
]


@pytest.fixture(scope="module")
def native(c_library: "CLibrary") -> Any:
    headers = ("pacer.h", "qemu_throttle.h", "controller.h")
    return c_library("".join(map(_declarations, headers)) + FUNCTIONS, SOURCE)


def make(native: Any, kind: str = "CONTROLLER_QEMU") -> Any:
    ffi, lib = native
    controller = ffi.new("struct controller *")
    lib.init(controller, getattr(lib, kind), RING)
    return controller


def correct(native: Any, controller: Any, rate: int) -> int:
    """Tell it of a window's rate; return how many us it sleeps then."""
    ffi, lib = native
    lib.correct(ffi.addressof(controller, "qemu"), rate)
    return int(controller.qemu.throttle_us)


def test_it_does_what_qemu_did(native: Any) -> None:
    controller = make(native)
    for limit, windows in RECORDED:
        native[1].start(controller, limit, SECOND)
        for rate, sleep in windows:
            assert correct(native, controller, rate) == sleep


@pytest.mark.parametrize(
    ("before_us", "limit", "rate", "after_us"),
    [
        (5000, 100, 125, 5000),  # within tolerance
        (5000, 100, 75, 5000),
        (5000, 100, 126, 5000 + 1600),  # a fixed step: a tenth of 16 MB / 1000 MB/s
        (5000, 100, 74, 5000 - 1600),
        (1000, 100, 74, 0),  # no less than nothing
        (5000, 100, 400, 5000 + 16000 * 75 // 25),
        (60000, 400, 100, 60000 - 16000 * 75 // 25),
        (5000, 100, 0, 0),
        (5000, 25, 0, 5000),  # tolerance counts first
        (1_580_000, 5, 1000, 16000 * 99),  # no more than 99 times the ring's time
        (5000, (1 << 64) - 1, 1000, 0),
    ],
)
def test_corrections(native: Any, before_us: int, limit: int, rate: int, after_us: int) -> None:
    controller = make(native)
    native[1].start(controller, limit, SECOND)
    controller.qemu.max_rate = 1000
    controller.qemu.throttle_us = before_us
    assert correct(native, controller, rate) == after_us


def run(native: Any, controller: Any, speed: int, seconds: float, now: int) -> tuple[int, float]:
    """Run a greedy guest of `speed` MB/s, as vcpu.c would; return the time and its MB/s.

    Rings are reset when full, and once a second.
    """
    lib = native[1]
    start, end, reset = now, now + round(seconds * SECOND), now + SECOND
    ns_per_page = SECOND // (speed * PAGES_PER_MB)
    total = in_ring = 0
    while now < end:
        look = lib.next_look(controller, now)
        pages = min(SOFT_FULL - in_ring, max(0, min(look, reset) - now) // ns_per_page + 1)
        now += pages * ns_per_page
        total += pages
        in_ring += pages
        full = in_ring == SOFT_FULL
        if full or now >= reset:
            in_ring = 0
        if now >= reset:
            reset = now + SECOND
        until = lib.charge(controller, pages, pages * ns_per_page, full, now)
        while until > now:
            now = until
            until = lib.charge(controller, 0, 0, False, now)
    return now, total / PAGES_PER_MB / ((now - start) / SECOND)


def test_a_loop_closes_on_a_limit_that_is_far_enough(native: Any) -> None:
    controller = make(native)
    native[1].start(controller, 400, SECOND)
    now, first = run(native, controller, 1600, 1, SECOND)
    assert first == pytest.approx(1600, rel=0.05)  # for a second it only looks
    now, _ = run(native, controller, 1600, 10, now)
    _, rate = run(native, controller, 1600, 5, now)
    assert abs(rate - 400) < 60


def test_a_small_limit_is_missed(native: Any) -> None:
    """A ring a second goes free, and 25 MB/s too much is well enough."""
    controller = make(native)
    native[1].start(controller, 5, SECOND)
    now, _ = run(native, controller, 1600, 30, SECOND)
    _, rate = run(native, controller, 1600, 20, now)
    assert 12 < rate < 40


def test_the_pacer_behind_the_same_interface(native: Any) -> None:
    controller = make(native, "CONTROLLER_PACER")
    native[1].start(controller, 5, SECOND)
    _, rate = run(native, controller, 1600, 10, SECOND)
    assert rate == pytest.approx(5, rel=0.01)


def test_a_wait_that_was_interrupted_goes_on(native: Any) -> None:
    controller, lib = make(native), native[1]
    lib.start(controller, 100, SECOND)
    controller.qemu.throttle_us = 50_000
    assert lib.charge(controller, 10, MS, False, SECOND) == SECOND
    until = lib.charge(controller, 10, MS, True, SECOND + MS)
    assert until == SECOND + 51 * MS
    assert lib.charge(controller, 0, 0, False, SECOND + 2 * MS) == until
    lib.start(controller, 200, SECOND + 3 * MS)  # but a new limit is a new beginning
    assert lib.charge(controller, 0, 0, False, SECOND + 3 * MS) <= SECOND + 3 * MS
    assert controller.qemu.throttle_us == 50_000


def test_a_window_counts_as_one_second_however_late_it_ends(native: Any) -> None:
    controller, lib = make(native), native[1]
    lib.start(controller, 400, SECOND)
    controller.qemu.throttle_us = 900_000
    lib.charge(controller, 600 * PAGES_PER_MB, MS, True, SECOND + 500 * MS)
    assert controller.qemu.max_rate == 0
    assert lib.charge(controller, 0, 0, False, SECOND + 1400 * MS) <= SECOND + 1400 * MS
    assert controller.qemu.max_rate == 600
    assert controller.qemu.window_pages == 0
    assert lib.next_look(controller, SECOND + 1400 * MS) == SECOND + 2400 * MS
