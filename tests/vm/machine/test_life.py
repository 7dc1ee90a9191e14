"""An engine's threads: their names, their states, their end; guests that go wrong."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from qmpserver.vm.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.engine import VcpuState
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.machine.guest import DirtyGuest

if TYPE_CHECKING:
    from qmpserver.vm.accel.kvm import KvmAccelerator
    from tests.conftest import Until
    from tests.vm.conftest import Leftovers, MakeRig, Rig

KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN = 5, 8
only_kvm = pytest.mark.parametrize("accel", ["kvm"], indirect=True)


def code(rig: "Rig", machine_code: bytes) -> None:
    """Have the vCPUs execute something else."""
    rip = rig.guest.entry(0).rip
    rig.ram.buffer[rip : rip + len(machine_code)] = machine_code


def test_threads_carry_qemus_names(make_rig: "MakeRig", accel: str, leftovers: "Leftovers") -> None:
    rig = make_rig(vcpus=3)
    suffix = {"kvm": "KVM", "soft": "soft"}[accel]
    names = [f"CPU {index}/{suffix}" for index in range(3)]
    assert leftovers.threads == [*names, "kvm-reaper"]
    for thread_id, name in zip(rig.engine.thread_ids(), names, strict=True):
        assert Path(f"/proc/self/task/{thread_id}/comm").read_text().strip() == name
    reaper = rig.engine.reaper().thread_id
    assert Path(f"/proc/self/task/{reaper}/comm").read_text().strip() == "kvm-reaper"


@pytest.mark.parametrize("how", ["parked", "running", "throttled", "holding", "ring full"])
@pytest.mark.parametrize("reaper", ["event", "poll"])
def test_close_leaves_nothing(
    make_rig: "MakeRig", leftovers: "Leftovers", until: "Until", how: str, reaper: str
) -> None:
    rig = make_rig(reaper=reaper, ring=1024, track=how != "holding")
    if how in ("throttled", "holding"):
        rig.limit(None, 1)
    if how != "parked":
        rig.engine.cont()
    if how == "throttled":
        until(lambda: rig.engine.count(VcpuState.THROTTLED) == 2)
    elif how == "holding":
        until(lambda: rig.engine.count(VcpuState.HOLDING) == 2)
    elif how != "parked":
        rig.advance(5000 if how == "ring full" else 1)
    assert leftovers.threads
    start = time.monotonic()
    rig.close()
    assert time.monotonic() - start < 0.9  # a polling reaper is woken too
    assert not leftovers.threads
    assert not leftovers.files


def test_an_engine_that_never_started(accel: str, leftovers: "Leftovers") -> None:
    ram = Ram(16 << 20)
    accelerator, _ = open_accelerator(ram, [AccelOptions(accel, 1024)])
    assert not leftovers.threads
    accelerator.close()
    ram.close()
    assert not leftovers.files


@only_kvm
def test_refused_kvm_leaves_nothing(accel: str, leftovers: "Leftovers") -> None:
    ram = Ram(16 << 20)
    with pytest.raises(AcceleratorError, match=r"too big \(maximum is \d+\)"):
        open_accelerator(ram, [AccelOptions(accel, 1 << 20)])
    ram.close()
    assert not leftovers.files


def test_the_first_that_works_is_taken() -> None:
    ram = Ram(16 << 20)
    accelerator, refused = open_accelerator(
        ram, [AccelOptions("kvm", 1 << 24), AccelOptions("soft", 1024)]
    )
    assert accelerator.name == "soft"
    assert len(refused) == 1
    assert refused[0].startswith("failed to initialize kvm: ")
    accelerator.close()
    ram.close()


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("xen", 0, "invalid accelerator xen"),
        ("kvm", 1000, "dirty-ring-size must be a power of two."),
        ("soft", 64, "invalid dirty ring size 64; expected a power of two from 128 to 65536"),
    ],
)
def test_impossible_accelerators(name: str, size: int, words: str) -> None:
    with pytest.raises(AcceleratorError) as caught:
        AccelOptions(name, size)
    assert str(caught.value) == words


@only_kvm
@pytest.mark.serial
def test_many_vcpus_start_and_end_at_once(accel: str) -> None:
    """Running ones would keep the kernel from making the next one's thread, for minutes."""
    vcpus = 200
    ram = Ram(1 << 30)
    accelerator, _ = open_accelerator(ram, [AccelOptions(accel, 1024)])
    guest = DirtyGuest({}, ram.buffer, vcpus, accelerator.clock_hz)
    guest.load()
    accelerator.add_vcpus(guest, vcpus)
    start = time.monotonic()
    accelerator.engine.start(stopped=False)
    started = time.monotonic()
    accelerator.engine.stop()
    accelerator.close()
    ended = time.monotonic()
    ram.close()
    assert started - start < 5
    assert ended - started < 5


def test_stop_and_cont(make_rig: "MakeRig") -> None:
    rig = make_rig(vcpus=4)
    slowest = 0.0
    for _ in range(50):
        rig.engine.cont()
        rig.advance()
        start = time.monotonic()
        rig.park()
        slowest = max(slowest, time.monotonic() - start)
        assert rig.engine.count(VcpuState.PARKED) == 4
        progress = rig.progress()
        rig.engine.reap()
        assert rig.progress() == progress
    assert slowest < 1


def test_stop_and_cont_at_once(make_rig: "MakeRig") -> None:
    """No wake-up is lost, whichever comes first."""
    rig = make_rig()
    for number in range(2000):
        rig.engine.stop()
        if number % 7 == 0:
            rig.wait_out()
        rig.engine.cont()
    rig.advance(1000)
    rig.park()


def test_a_guest_that_keeps_a_pace_stops_too(make_rig: "MakeRig") -> None:
    rig = make_rig(rate="1")
    rig.engine.cont()
    rig.advance(2)
    start = time.monotonic()
    rig.park()
    assert time.monotonic() - start < 1


@only_kvm
def test_a_triple_fault_is_told(make_rig: "MakeRig") -> None:
    rig = make_rig(prepare=lambda rig: code(rig, b"\xf4"))  # HLT: not for user mode
    rig.engine.cont()
    rig.wait_out(VcpuState.FAILED)
    assert {rig.engine.vcpu(index).exit_reason for index in range(2)} == {KVM_EXIT_SHUTDOWN}
    assert rig.progress() == [0, 0]


@only_kvm
def test_a_halt_is_told(make_rig: "MakeRig") -> None:
    def halt_in_ring_0(rig: "Rig") -> None:
        code(rig, b"\xf4")
        vcpu = cast("KvmAccelerator", rig.accel)._vcpu_fds[0]
        sregs: Any = vcpu.get_sregs()
        sregs.cs.selector, sregs.cs.dpl = 0x10, 0
        sregs.ss.selector, sregs.ss.dpl = 0x18, 0
        vcpu.set_sregs(sregs)

    rig = make_rig(vcpus=1, prepare=halt_in_ring_0)
    rig.engine.cont()
    rig.wait_out(VcpuState.HALTED)
    assert rig.engine.vcpu(0).exit_reason == KVM_EXIT_HLT
    rig.park()  # it counts as stopped
    rig.limit(None, 10)
    rig.cancel(None)


@only_kvm
def test_ports_without_a_device(make_rig: "MakeRig", until: "Until") -> None:
    """Reads float high, writes go nowhere, and the guest goes on."""
    # in al, 0x60; mov [rdi+40], rax; out 0x80, al; jmp to the start
    program = bytes.fromhex("e460 48894728 e680 ebf4")
    rig = make_rig(vcpus=1, prepare=lambda rig: code(rig, program))
    rig.engine.cont()
    until(lambda: rig.progress() == [0xFF])
    rig.park()
    assert rig.engine.vcpu(0).state is VcpuState.PARKED


@pytest.mark.parametrize("accel", ["soft"], indirect=True)
def test_a_working_set_outside_of_ram(make_rig: "MakeRig", until: "Until") -> None:
    def spoil(rig: "Rig") -> None:
        control = rig.guest.layout.control(0)
        rig.ram.buffer[control : control + 8] = (1 << 40).to_bytes(8, "little")

    rig = make_rig(prepare=spoil)
    rig.engine.cont()
    until(lambda: rig.engine.count(VcpuState.FAILED))
    rig.park()
    assert [rig.engine.vcpu(index).state.name for index in range(2)] == ["FAILED", "PARKED"]
