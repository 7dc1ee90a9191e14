"""What a migration does: copy RAM while the guest runs, then what is marked, until all is equal.

By default few rounds. ROUNDS=1000 pytest tests/engine/test_migration.py makes a thousand.
"""

import contextlib
import ctypes
import os
import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from qmpserver.vm.accel.kvm import KvmAccelerator
    from tests.vm.conftest import MakeRig, Rig

ROUNDS = int(os.environ.get("ROUNDS", "12"))
PAGE = 4096
SYS_TGKILL = 234
LIMITS = [1, 20, 200, 2000]
only_soft = pytest.mark.parametrize("accel", ["soft"], indirect=True)
only_kvm = pytest.mark.parametrize("accel", ["kvm"], indirect=True)


def protect(rig: "Rig", pages: set[int]) -> None:
    words = (rig.ram.pages + 63) // 64
    bitmap = sum(1 << page for page in pages).to_bytes(words * 8, "little")
    lib.engine_protect(rig.engine.pointer, 0, ffi.from_buffer("uint64_t[]", bitmap), words)


def copy_pages(rig: "Rig", copy: bytearray, pages: set[int]) -> None:
    protect(rig, pages)
    for page in pages:
        copy[page * PAGE : (page + 1) * PAGE] = rig.ram.buffer[page * PAGE : (page + 1) * PAGE]


def differing(rig: "Rig", copy: bytearray) -> list[int]:
    return [
        page
        for page in range(rig.ram.pages)
        if copy[page * PAGE : (page + 1) * PAGE] != rig.ram.buffer[page * PAGE : (page + 1) * PAGE]
    ]


def migrate(rig: "Rig", rng: random.Random, *, storm: bool = True, stores: int = 600) -> None:
    """Copy the RAM of the running guest in three passes, the last one with it stopped."""
    rig.engine.defer_protection(rng.random() < 0.5)
    rig.engine.cont()
    protect(rig, rig.marked())  # what was before is in the first copy
    copy = bytearray(rig.ram.buffer[:])
    for _ in range(2):
        if storm:
            for _ in range(rng.randrange(4)):
                rig.limit(rng.choice([None, 0, 1]), rng.choice(LIMITS))
                rig.engine.reap()
                rig.cancel(rng.choice([None, 0, 1]))
            if rng.random() < 0.3:
                rig.engine.stop()
                rig.engine.cont()
            rig.cancel(None)
        rig.advance(stores)
        copy_pages(rig, copy, rig.marked())
    rig.park()
    copy_pages(rig, copy, rig.marked())
    lost = differing(rig, copy)
    assert not lost, f"{len(lost)} pages lost"


@contextlib.contextmanager
def signals(rig: "Rig") -> Iterator[None]:
    """Send every native thread signals, as fast as another thread can."""
    libc, done = ctypes.CDLL(None), threading.Event()
    targets = [*rig.engine.thread_ids(), rig.engine.reaper().thread_id]

    def send() -> None:
        while not done.wait(0.0002):
            for thread_id in targets:
                libc.syscall(SYS_TGKILL, os.getpid(), thread_id, lib.KICK_SIGNAL)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("ring", [1024, 4096, 65536])
@pytest.mark.parametrize("pattern", ["sequential", "random", "hotspot"])
def test_a_copy_of_a_running_guest_is_whole(make_rig: "MakeRig", pattern: str, ring: int) -> None:
    rng = random.Random(ring)
    rig = make_rig(pattern=pattern, ring=ring, ram=16 << 20)
    with signals(rig):
        for _ in range(-(-ROUNDS // 9)):
            migrate(rig, rng)
    assert rig.engine.reset_shortfalls == 0
    assert not any(rig.engine.vcpu(index).overflows for index in range(rig.vcpus))


def data_pages(rig: "Rig") -> set[int]:
    """Mark, and return the pages that are no control blocks."""
    return rig.marked() & rig.contents().keys()


def test_a_page_that_is_left_writable_is_found_once(make_rig: "MakeRig") -> None:
    """Its sender protects it; the end of that protects all."""
    rig = make_rig(vcpus=1, ram=16 << 20, pages="300")
    rig.marked()
    rig.engine.defer_protection(True)
    rig.engine.cont()
    rig.advance(1000)
    pages = data_pages(rig)
    assert len(pages) == 300
    pushed = rig.engine.pages()
    rig.advance(1000)
    assert not data_pages(rig)
    assert rig.engine.pages() == pushed
    some = set(sorted(pages)[100:200])
    protect(rig, some)
    rig.advance(1000)
    assert data_pages(rig) == some
    rig.engine.defer_protection(False)
    rig.advance(1000)
    assert data_pages(rig) == pages
    rig.advance(1000)
    assert data_pages(rig) == pages


@pytest.mark.slow
def test_tracking_switched_between_copies(make_rig: "MakeRig") -> None:
    rng = random.Random(3)
    rig = make_rig(pattern="random", ring=1024, ram=16 << 20)
    for _ in range(5):
        migrate(rig, rng)
        rig.engine.cont()
        rig.track(False)
        rig.advance(1000)
        rig.track(True)


@only_soft
def test_a_cut_reset_counts_as_all_pages_until_the_bitmap_is_taken(make_rig: "MakeRig") -> None:
    """Whoever decides whether the rest fits a pause sees that all of RAM is to be sent."""
    rig = make_rig(vcpus=1, pages="300")
    rig.marked()
    rig.engine.cont()
    rig.advance(300)
    rig.soft_cut_reset()
    rig.engine.reap()
    assert rig.engine.reset_shortfalls == 1
    assert rig.engine.dirty_pages() == rig.ram.pages
    rig.park()
    assert len(rig.marked()) == rig.ram.pages
    assert rig.engine.dirty_pages() <= 302
    rig.marked()
    assert rig.engine.dirty_pages() == 0


@only_soft
def test_a_buffer_of_the_hardware_is_emptied_first(make_rig: "MakeRig") -> None:
    """A page that waits in it is in the bitmap of the running guest already."""
    rig = make_rig(
        vcpus=1, ring=2048, ram=16 << 20, pages="300", prepare=lambda rig: rig.soft_buffer_log()
    )
    rig.marked()
    for _ in range(20):
        before = rig.contents()
        rig.engine.cont()
        rig.advance(50)
        now = rig.contents()  # the guest goes on: at least these have changed
        marked = rig.marked()
        changed = {page for page, counter in now.items() if counter != before[page]}
        assert changed
        assert changed <= marked
        rig.park()
        rig.marked()


@pytest.mark.slow
@only_soft
@pytest.mark.parametrize("extra", [40, 100, 1500])
@pytest.mark.parametrize("pattern", ["sequential", "random"])
def test_an_overrun_ring_is_survived(make_rig: "MakeRig", pattern: str, extra: int) -> None:
    """More is pushed than the ring holds: `extra` is some entries, and more than a whole turn."""
    rng = random.Random(extra)
    rig = make_rig(pattern=pattern, ring=1024, ram=24 << 20)
    for number in range(3):
        for _ in range(2):
            rig.soft_overrun(extra * rig.vcpus)
            migrate(rig, rng, storm=number == 1, stores=1500 + extra)
        overflows = [rig.engine.vcpu(index).overflows for index in range(rig.vcpus)]
        assert sum(overflows) or extra < 64
        rig.soft_overrun(0)
        settle(rig)
        check_that_it_works_still(rig)


def settle(rig: "Rig") -> None:
    """Let the guest run until the last overflow is over: its position is found at the next push."""
    rig.engine.defer_protection(False)
    rig.engine.cont()
    rig.advance(5000)
    rig.park()
    rig.marked()


def check_that_it_works_still(rig: "Rig") -> None:
    """No more than what changes is marked, and a full ring ends the vCPU's stay."""
    overflows = [rig.engine.vcpu(index).overflows for index in range(rig.vcpus)]
    shortfalls = rig.engine.reset_shortfalls
    before = rig.contents()
    rig.engine.cont()
    rig.advance(200)
    rig.park()
    marked, after = rig.marked(), rig.contents()
    changed = {page for page, counter in after.items() if counter != before[page]}
    assert changed <= marked
    assert len(marked - set(range(0x100, 0x200))) <= len(changed)
    full = [rig.engine.vcpu(index).full_exits for index in range(rig.vcpus)]
    rig.engine.cont()
    rig.advance(4000)
    rig.park()
    for index in range(rig.vcpus):
        vcpu = rig.engine.vcpu(index)
        assert vcpu.full_exits - full[index] < 60  # each after 960 pages
        assert vcpu.overflows == overflows[index]
    assert rig.engine.reset_shortfalls == shortfalls


@pytest.mark.slow
@only_soft
def test_an_interrupted_reset_is_survived(make_rig: "MakeRig") -> None:
    """It drops pages that stay writable: what is stored to them later must not be lost either."""
    rng = random.Random(5)
    rig = make_rig(pattern="random", ring=1024, ram=16 << 20)
    for _ in range(10):
        before = rig.engine.reset_shortfalls
        rig.engine.cont()
        rig.advance(200)
        rig.soft_interrupt_reset()
        migrate(rig, rng, storm=False)
        assert rig.engine.reset_shortfalls > before
    settle(rig)
    check_that_it_works_still(rig)


def in_ring_0(rig: "Rig") -> None:
    """KVM without hardware's help emulates ring 0, and does not look at the ring meanwhile."""
    for vcpu in cast("KvmAccelerator", rig.accel)._vcpu_fds:
        sregs: Any = vcpu.get_sregs()
        sregs.cs.selector, sregs.cs.dpl = 0x10, 0
        sregs.ss.selector, sregs.ss.dpl = 0x18, 0
        vcpu.set_sregs(sregs)


@pytest.mark.slow
@only_kvm
@pytest.mark.parametrize("ring", [1024, 4096])
@pytest.mark.parametrize("pattern", ["sequential", "random"])
def test_a_guest_in_ring_0(make_rig: "MakeRig", pattern: str, ring: int) -> None:
    rng = random.Random(7)
    rig = make_rig(pattern=pattern, ring=ring, ram=64 << 20, prepare=in_ring_0)
    for _ in range(-(-ROUNDS // 4)):
        migrate(rig, rng, stores=ring)
    if not any(rig.engine.vcpu(index).overflows for index in range(rig.vcpus)):
        pytest.skip("this KVM overran no ring")
