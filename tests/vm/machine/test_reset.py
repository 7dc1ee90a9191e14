"""A reset: vCPUs and guest image as at the start, and not a dirty page lost."""

from typing import TYPE_CHECKING

import pytest

from qmpserver.vm.accel.engine import VcpuState

if TYPE_CHECKING:
    from tests.conftest import Until
    from tests.vm.conftest import MakeRig, Rig

only_kvm = pytest.mark.parametrize("accel", ["kvm"], indirect=True)


def reset(rig: "Rig") -> set[int]:
    """Reset a rig whose vCPUs have stopped; return the pages that this wrote to."""
    written = rig.guest.load()
    rig.accel.reset_vcpus()
    rig.engine.mark_dirty(written)
    return set(written)


def test_the_guest_begins_anew(make_rig: "MakeRig") -> None:
    rig = make_rig(pattern="random")
    for _ in range(20):
        rig.engine.cont()
        rig.advance(1000)
        rig.park()
        assert min(rig.progress()) >= 1000
        before = rig.contents()
        reset(rig)
        assert rig.progress() == [0, 0]
        assert rig.contents() == before  # RAM keeps what was stored


def test_a_sequential_guest_begins_with_its_first_page(make_rig: "MakeRig") -> None:
    rig = make_rig(vcpus=1, pages="8000", ring=65536)
    for times in range(1, 4):
        rig.engine.cont()
        rig.advance(100)
        rig.park()
        assert rig.progress()[0] < 8000  # or the test shows less than it could
        with rig.guest.page_counters(0) as counters:
            assert counters[0] == times
        reset(rig)


@pytest.mark.slow
def test_no_page_is_lost(make_rig: "MakeRig") -> None:
    rig = make_rig(pattern="random", ring=1024)
    rig.marked()
    for number in range(6):
        before = rig.contents()
        rig.engine.cont()
        rig.advance(3000)
        rig.park()
        if number % 2:
            rig.engine.reap()
        written = reset(rig)
        rig.engine.cont()
        rig.advance(3000)
        rig.park()
        after = rig.contents()
        changed = {page for page, counter in after.items() if counter != before[page]}
        assert changed | written <= rig.marked()
        assert rig.engine.reset_shortfalls == 0


def test_what_the_loader_writes_is_dirty_while_tracked(make_rig: "MakeRig") -> None:
    rig = make_rig()
    rig.marked()
    assert reset(rig) == rig.marked()
    rig.marked()  # the host's own writes are in two bitmaps
    rig.track(False)
    reset(rig)
    assert not rig.marked()


def test_a_limit_goes_on(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig()
    rig.limit(None, 1)
    for _ in range(5):
        rig.engine.cont()
        until(lambda: rig.engine.count(VcpuState.THROTTLED) == 2)
        rig.park()
        reset(rig)
        assert rig.engine.limits() == [1, 1]


@only_kvm
def test_after_a_triple_fault(make_rig: "MakeRig") -> None:
    def halt(rig: "Rig") -> None:
        rip = rig.guest.entry(0).rip
        rig.ram.buffer[rip : rip + 1] = b"\xf4"  # HLT: not for user mode

    rig = make_rig(prepare=halt)
    for _ in range(5):
        rig.engine.cont()
        rig.wait_out(VcpuState.FAILED)
        assert rig.engine.shut_down
        rig.park()
        reset(rig)
        assert not rig.engine.shut_down
        rig.engine.cont()
        rig.advance(1000)
        rig.park()
        halt(rig)
        rig.accel.reset_vcpus()


@pytest.mark.slow
@only_kvm
def test_an_instruction_that_waits_for_a_device_is_ended_first(make_rig: "MakeRig") -> None:
    """Else the next KVM_RUN would end it with the new registers."""

    def read_a_port(rig: "Rig") -> None:
        rip = rig.guest.entry(0).rip
        code = bytes.fromhex("e460 48ff4728 ebf8")  # in al, 0x60; inc [rdi+40]; again
        rig.ram.buffer[rip : rip + len(code)] = code

    rig = make_rig(vcpus=1, prepare=read_a_port)
    for _ in range(20):
        rig.engine.cont()
        rig.advance(10)
        rig.park()
        reset(rig)
        rig.engine.cont()
        rig.advance(1000)
        rig.park()
        read_a_port(rig)
        rig.accel.reset_vcpus()


@pytest.mark.parametrize("accel", ["soft"], indirect=True)
def test_after_a_failure(make_rig: "MakeRig") -> None:
    def spoil(rig: "Rig") -> None:
        control = rig.guest.layout.control(0)
        rig.ram.buffer[control : control + 8] = (1 << 40).to_bytes(8, "little")

    rig = make_rig(vcpus=1, prepare=spoil)
    rig.engine.cont()
    rig.wait_out(VcpuState.FAILED)
    rig.park()
    assert not rig.engine.shut_down
    reset(rig)
    rig.engine.cont()
    rig.advance(1000)
