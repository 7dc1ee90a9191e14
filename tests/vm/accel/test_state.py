"""The state of a machine: saved on one, loaded on another in the same process, and run on there."""

import base64
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from qmpserver.bench.firmware import firmware_image
from qmpserver.vm.accel import Accelerator, AccelOptions, open_accelerator
from qmpserver.vm.accel.engine import VcpuState
from qmpserver.vm.accel.kvm import KvmAccelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.native._native import lib
from qmpserver.vm.machine.firmware import Firmware
from qmpserver.vm.machine.guest import DirtyGuest
from tests.conftest import CLibrary, Until
from tests.vm.conftest import MakeRig, Rig

only_kvm = pytest.mark.parametrize("accel", ["kvm"], indirect=True)
only_soft = pytest.mark.parametrize("accel", ["soft"], indirect=True)

SYSENTER_CS, KERNEL_GS_BASE, NO_MSR = 0x174, 0xC0000102, 0xDEAD
POLL_CONTROL = 0x4B564D05  # KVM's own: bit 0 only
PROGRESS = 40  # where it is in the control block
SEGMENT = 24  # bytes of a struct kvm_segment
CS, SS = 0, 5  # their numbers in struct kvm_sregs2
CR4 = 8 * SEGMENT + 2 * 16 + 3 * 8  # its place in struct kvm_sregs2
CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE = 0x200, 0x400, 0x40000
CLOCKS = {"tsc", "clock", "realtime", "lateness"}  # go on also while nothing runs


def move(source: Any, destination: Any) -> None:
    """Copy RAM and state of a stopped machine; the state as JSON."""
    destination.ram.buffer[:] = source.ram.buffer[:]
    destination.accel.load_state(json.loads(json.dumps(source.accel.save_state())))


def still(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without its clocks."""

    def without(components: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in components.items() if name not in CLOCKS}

    return {"vm": without(state["vm"]), "vcpus": [without(vcpu) for vcpu in state["vcpus"]]}


def edit(vcpu: dict[str, Any], name: str, offset: int, data: bytes) -> None:
    """Replace bytes of a structure in a state."""
    blob = bytearray(base64.b64decode(vcpu[name]))
    blob[offset : offset + len(data)] = data
    vcpu[name] = base64.b64encode(blob).decode()


def msrs(vcpu: dict[str, Any]) -> dict[int, int]:
    return dict(struct.iter_unpack("=I4xQ", base64.b64decode(vcpu["msrs"])))


def set_msrs(vcpu: dict[str, Any], values: dict[int, int]) -> None:
    """Replace or add MSRs in a state."""
    blob = b"".join(struct.pack("=I4xQ", *entry) for entry in (msrs(vcpu) | values).items())
    vcpu["msrs"] = base64.b64encode(blob).decode()


def run(code: str) -> Callable[[Rig], None]:
    """Return a function that has the vCPUs of a rig run other code, `code` in hex."""

    def prepare(rig: Rig) -> None:
        entry = rig.guest.entry(0).rip
        rig.ram.buffer[entry : entry + len(bytes.fromhex(code))] = bytes.fromhex(code)

    return prepare


def run_privileged(code: str) -> Callable[[Rig], None]:
    """Return the same for code that runs at CPL 0."""

    def prepare(rig: Rig) -> None:
        run(code)(rig)
        state = rig.accel.save_state()
        for vcpu in state["vcpus"]:
            for segment, selector in ((CS, 0x30), (SS, 0x28)):
                edit(vcpu, "sregs2", segment * SEGMENT + 12, struct.pack("=H", selector))
                edit(vcpu, "sregs2", segment * SEGMENT + 16, b"\0")  # dpl
        rig.accel.load_state(state)

    return prepare


# The guest goes on.


Expected = Callable[[Rig, int, int, int], list[int]]


@pytest.fixture(scope="module")
def expected_counters(c_library: CLibrary) -> Expected:
    """Return a function that counts the visits to each page of a vCPU, by the guest's sequence.

    It takes a rig, the vCPU, its seed, and the number of stores.
    """
    cffi, part = c_library(
        "void visit(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t *);",
        """
        #include "guest.h"
        void visit(uint64_t pages, uint64_t pattern, uint64_t seed, uint64_t n, uint64_t *counts)
        {
            struct dirty_guest control = { .pages = pages, .pattern = pattern, .seed = seed };
            struct guest_dirty_state state;

            guest_dirty_start(&state, &control);
            while (n--)
                counts[guest_dirty_next(&state, &control)]++;
        }
        """,
    )

    def count(rig: Rig, index: int, seed: int, stores: int) -> list[int]:
        layout = rig.guest.layout
        counts = cffi.new("uint64_t[]", layout.pages)
        part.visit(layout.pages, layout.pattern, seed, stores, counts)
        return list(counts)

    return count


@pytest.mark.slow
@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("pattern", ["sequential", "random", "hotspot"])
def test_the_guest_goes_on_where_it_stopped(
    make_rig: MakeRig, pattern: str, vcpus: int, expected_counters: Expected
) -> None:
    rigs = [make_rig(vcpus=vcpus, pattern=pattern, pages="700", track=False) for _ in "AB"]
    seeds = [
        int.from_bytes(rigs[0].ram.buffer[control + 32 : control + 40], "little")
        for control in map(rigs[0].guest.layout.control, range(vcpus))
    ]
    for leg in range(4):
        source, destination = rigs[leg % 2], rigs[1 - leg % 2]
        source.engine.cont()
        source.advance(300)
        source.park()
        stopped = source.progress()
        move(source, destination)
        assert destination.progress() == stopped
        destination.engine.cont()
        destination.advance(300)
        destination.park()
        for index in range(vcpus):
            with destination.guest.page_counters(index) as view:
                counters = view.tolist()
            assert sum(counters) - destination.progress()[index] in (0, 1)
            assert counters == expected_counters(destination, index, seeds[index], sum(counters))


@pytest.mark.slow
def test_a_paced_guest_keeps_its_pace(make_rig: MakeRig) -> None:
    """Its next store is due at a time of its clock, which must not have gone back."""
    rigs = [make_rig(vcpus=1, rate="1", track=False) for _ in "AB"]  # a store every 4 ms
    for leg in range(4):
        source, destination = rigs[leg % 2], rigs[1 - leg % 2]
        source.engine.cont()
        source.advance(3)
        source.park()
        move(source, destination)
    destination.engine.cont()
    destination.advance(3)


def test_a_state_that_is_loaded_is_the_state_that_is_saved(make_rig: MakeRig) -> None:
    source, destination = (make_rig(pattern="random") for _ in "AB")
    source.engine.cont()
    source.advance(1000)
    source.park()
    saved = still(source.accel.save_state())
    assert saved != still(destination.accel.save_state())
    move(source, destination)
    assert still(destination.accel.save_state()) == saved
    assert still(source.accel.save_state()) == saved


@pytest.mark.serial
def test_saving_is_quick(make_rig: MakeRig) -> None:
    """It is a part of the pause that a guest feels."""
    rig = make_rig(vcpus=8, pages="100")
    times = []
    for _ in range(50):
        start = time.thread_time()
        rig.accel.save_state()
        times.append(time.thread_time() - start)
    assert median(times) < 0.005


# Threads.

HALT = "f4 48ff4728 ebf9"  # hlt; inc [rdi+40]; again


@only_kvm
def test_a_halted_vcpu_stays_halted(make_rig: MakeRig) -> None:
    source = make_rig(prepare=run_privileged(HALT))
    destination = make_rig()
    source.engine.cont()
    source.wait_out(VcpuState.HALTED)
    source.park()
    move(source, destination)
    for _ in range(3):
        destination.engine.cont()
        destination.engine.stop()
        assert destination.engine.count(VcpuState.HALTED) == 2
        assert destination.engine.vcpu(0).exit_reason == source.engine.vcpu(0).exit_reason != 0
    assert destination.progress() == [0, 0]
    destination.guest.load()
    destination.accel.reset_vcpus()
    destination.engine.cont()
    destination.advance(1000)


@only_kvm
def test_a_triple_fault_goes_along(make_rig: MakeRig) -> None:
    source = make_rig(prepare=run("f4"))  # hlt, not for user mode
    destination = make_rig()
    source.engine.cont()
    source.wait_out(VcpuState.FAILED)
    source.park()
    move(source, destination)
    assert destination.engine.count(VcpuState.FAILED) == 2
    assert destination.engine.shut_down
    destination.guest.load()
    destination.accel.reset_vcpus()
    assert not destination.engine.shut_down
    destination.engine.cont()
    destination.advance(1000)


@only_soft
def test_a_failure_goes_along(make_rig: MakeRig) -> None:
    def spoil(rig: Rig) -> None:
        control = rig.guest.layout.control(1)
        rig.ram.buffer[control : control + 8] = (1 << 40).to_bytes(8, "little")

    source, destination = make_rig(prepare=spoil), make_rig()
    source.engine.cont()
    while not source.engine.count(VcpuState.FAILED):
        source.advance(0)
    source.park()
    move(source, destination)
    assert [destination.engine.vcpu(index).state for index in (0, 1)] == [
        VcpuState.PARKED,
        VcpuState.FAILED,
    ]


@pytest.mark.slow
def test_a_thread_changes_no_loaded_state(make_rig: MakeRig) -> None:
    """A thread that is found parked stays so: no late kick, no short run, moves it on."""
    rig = make_rig()
    parked = rig.accel.save_state()
    halted = deepcopy(parked)
    for vcpu in halted["vcpus"]:
        vcpu["thread"] = {"state": "halted", "exit_reason": 5}
    for _ in range(300):
        rig.engine.cont()
        rig.park()
        rig.engine.stop()
        rig.accel.load_state(halted)
        rig.engine.stop()
        assert rig.engine.count(VcpuState.HALTED) == 2
        rig.accel.load_state(parked)
        assert rig.engine.count(VcpuState.PARKED) == 2
    rig.engine.cont()
    rig.advance(100)


@pytest.mark.slow
@only_kvm
def test_an_instruction_that_waits_for_a_device_goes_along(make_rig: MakeRig) -> None:
    """Its result is in the registers that are saved."""
    code = run("30c0 e460 3cff 75f8 48ff4728 ebf2")  # al = 0; in al, 0x60; if 0xff: count; again
    rigs = [make_rig(vcpus=1, prepare=code, track=False) for _ in "AB"]
    for leg in range(30):
        source, destination = rigs[leg % 2], rigs[1 - leg % 2]
        source.engine.cont()
        source.advance(5)
        source.park()
        move(source, destination)
    destination.engine.cont()
    destination.advance(5)


# Registers that the guest `dirty` does not use.

FPU = (
    "0fae5740 dbe3 db6f48 c5fc104760 c57c10bf80000000 48ff4728"  # load all, count
    "f390 48837f5800 74f7"  # wait for a word that the host sets
    "c5fc118760010000 c57c11bf80010000 0fae9f40010000 dbbf48010000 48ff4728"  # store all, count
    "f390 ebfc"
)
MXCSR, ST0, GO, YMM0, YMM15 = 0x40, 0x48, 0x58, 0x60, 0x80  # in the control block
STORED = 0x100  # farther on


@only_kvm
def test_fpu_sse_and_avx_registers_survive(make_rig: MakeRig, until: Until) -> None:
    values = {
        MXCSR: struct.pack("=I", 0x3F80),
        ST0: struct.pack("=QH", 0xC90FDAA22168C235, 0x4000),  # pi
        YMM0: bytes(range(32)),
        YMM15: bytes(range(100, 132)),
    }

    def prepare(rig: Rig) -> None:
        run(FPU)(rig)
        control = rig.guest.layout.control(0)
        for offset, value in values.items():
            rig.ram.buffer[control + offset : control + offset + len(value)] = value
        state = rig.accel.save_state()
        [vcpu] = state["vcpus"]
        cr4 = 0x20 | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE
        edit(vcpu, "sregs2", CR4, struct.pack("=Q", cr4))
        edit(vcpu, "xcrs", 16, struct.pack("=Q", 7))  # XCR0: x87, SSE, AVX
        try:
            rig.accel.load_state(state)
        except ValueError as error:
            pytest.skip(f"no AVX: {error}")

    source = make_rig(vcpus=1, prepare=prepare)
    destination = make_rig(vcpus=1)
    source.engine.cont()
    until(lambda: source.progress() == [1])
    source.park()
    move(source, destination)
    control = source.guest.layout.control(0)
    destination.ram.buffer[control + GO] = 1
    destination.engine.cont()
    until(lambda: destination.progress() == [2])
    for offset, value in values.items():
        where = control + STORED + offset
        assert destination.ram.buffer[where : where + len(value)] == value
    destination.park()
    assert (
        still(destination.accel.save_state())["vcpus"][0]["xcrs"]
        == (source.accel.save_state()["vcpus"][0]["xcrs"])
    )


@only_kvm
def test_msrs_and_debug_registers_survive(make_rig: MakeRig) -> None:
    source, destination = make_rig(), make_rig()
    state = source.accel.save_state()
    wanted = {SYSENTER_CS: 0x1230, KERNEL_GS_BASE: 0x1234_5678_9000}
    for vcpu in state["vcpus"]:
        set_msrs(vcpu, wanted)
        edit(vcpu, "debugregs", 0, struct.pack("=Q", 0xABCD))  # DR0
    source.accel.load_state(state)
    move(source, destination)
    for rig in (source, destination):
        for vcpu in rig.accel.save_state()["vcpus"]:
            assert msrs(vcpu) | wanted == msrs(vcpu)
            assert base64.b64decode(vcpu["debugregs"])[:8] == struct.pack("=Q", 0xABCD)


@only_kvm
def test_an_msr_that_the_source_does_not_know_is_initial(make_rig: MakeRig) -> None:
    rig = make_rig(vcpus=1)
    first = rig.accel.save_state()
    assert msrs(first["vcpus"][0])[SYSENTER_CS] == 0
    changed = deepcopy(first)
    set_msrs(changed["vcpus"][0], {SYSENTER_CS: 0x1230})
    rig.accel.load_state(changed)
    first["vcpus"][0]["msrs"] = ""
    rig.accel.load_state(first)
    assert msrs(rig.accel.save_state()["vcpus"][0])[SYSENTER_CS] == 0


@only_kvm
def test_a_host_may_have_more_features(make_rig: MakeRig) -> None:
    rig = make_rig()
    state = rig.accel.save_state()
    assert state["vm"]["cpuid"]["0x1.0.edx"] & 1  # an FPU
    state["vm"]["cpuid"]["0x1.0.edx"] &= ~1
    state["vm"]["cpuid"]["0x99.0.eax"] = 0
    rig.accel.load_state(state)


# Clocks.


@only_kvm
def test_clocks_go_on_and_keep_their_distance(make_rig: MakeRig) -> None:
    source, destination = make_rig(), make_rig()
    state = source.accel.save_state()
    state["vcpus"][1]["tsc"] = state["vcpus"][0]["tsc"] + 12345
    source.accel.load_state(state)
    before = source.accel.save_state()
    destination.accel.load_state(before)
    after = destination.accel.save_state()
    distances = [saved["vcpus"][1]["tsc"] - saved["vcpus"][0]["tsc"] for saved in (before, after)]
    assert distances in ([12345, 12345], [0, 0])  # 0: KVM cannot set a TSC
    elapsed = after["vm"]["realtime"] - before["vm"]["realtime"]
    ticks = after["vcpus"][0]["tsc"] - before["vcpus"][0]["tsc"]
    assert ticks > 0
    assert abs(ticks * 1_000_000 / before["vm"]["tsc_khz"] - elapsed) < 50_000_000
    assert 0 < after["vm"]["clock"] - before["vm"]["clock"] < elapsed + 50_000_000


@only_kvm
def test_no_clock_goes_back_if_the_hosts_disagree(make_rig: MakeRig) -> None:
    source, destination = make_rig(), make_rig()
    state = source.accel.save_state()
    state["vm"]["realtime"] += 3600_000_000_000
    destination.accel.load_state(state)
    after = destination.accel.save_state()
    for then, now in zip(state["vcpus"], after["vcpus"], strict=True):
        assert then["tsc"] < now["tsc"] < then["tsc"] + state["vm"]["tsc_khz"] * 10_000
    assert state["vm"]["clock"] < after["vm"]["clock"]


@only_kvm
def test_a_tsc_that_cannot_be_set_does_not_go_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    state = rig.accel.save_state()
    before = still(state)
    ahead = state["vcpus"][1]["tsc"] + 3_600_000_000 * state["vm"]["tsc_khz"] // 1000
    for vcpu in state["vcpus"]:
        vcpu["tsc"] = ahead
        edit(vcpu, "regs", 0, struct.pack("=Q", 77))
    refusal = ""
    try:
        rig.accel.load_state(state)
    except ValueError as error:
        refusal = str(error)
    after = rig.accel.save_state()
    if all(vcpu["tsc"] > ahead for vcpu in after["vcpus"]):
        assert not refusal
    else:
        assert re.match("vCPU 0: tsc: this host cannot set the TSC, .* back by", refusal)
        assert still(after) == before


@only_kvm
def test_the_frequency_of_the_tsc(make_rig: MakeRig) -> None:
    """Hosts of one kind differ a little; where KVM cannot scale, it must be no more."""
    rig = make_rig()
    accelerator = rig.accel
    assert isinstance(accelerator, KvmAccelerator)

    def frequencies() -> list[int]:
        return [vcpu.ioctl(lib.KVM_GET_TSC_KHZ) for vcpu in accelerator._vcpu_fds]

    state = accelerator.save_state()
    khz = state["vm"]["tsc_khz"]
    state["vm"]["tsc_khz"] = khz + khz // 10_000
    accelerator.load_state(state)
    assert frequencies() == [khz + khz // 10_000] * 2
    assert accelerator.save_state()["vm"]["tsc_khz"] == khz + khz // 10_000
    state["vm"]["tsc_khz"] = khz + khz // 1000
    if accelerator._kvm.check_extension(lib.KVM_CAP_TSC_CONTROL):
        accelerator.load_state(state)
        assert frequencies() == [khz + khz // 1000] * 2
    else:
        text = (
            rf"^VM: tsc_khz: this host cannot scale its TSC to \d+ kHz, expected {khz} kHz within"
        )
        with pytest.raises(ValueError, match=text):
            accelerator.load_state(state)
    accelerator.reset_vcpus()
    assert frequencies() == [khz] * 2


# Firmware.


class FirmwareRig:
    """A machine with firmware that starts the guest on `booted` of its vCPUs."""

    def __init__(self, directory: Path, *, vcpus: int, booted: int) -> None:
        self.ram = Ram(64 << 20)
        self.accel: Accelerator
        self.accel, _ = open_accelerator(self.ram, [AccelOptions("kvm", 1024)])
        path = directory / "dirty.bin"
        path.write_bytes(firmware_image(self.ram.size, booted))
        firmware = Firmware(str(path), self.ram.buffer)
        firmware.load()
        self.accel.add_vcpus(firmware, vcpus)
        self.guest = DirtyGuest({}, self.ram.buffer, booted, self.accel.clock_hz)  # not loaded
        self.booted = booted
        self.accel.engine.start(stopped=True)

    def progress(self) -> int:
        return min(self.guest.progress(index) for index in range(self.booted))

    def close(self) -> None:
        self.accel.close()
        self.ram.close()


@pytest.fixture
def firmware_rigs(tmp_path: Path, kvm: None) -> Iterator[Callable[..., list[FirmwareRig]]]:
    rigs: list[FirmwareRig] = []

    def make(**options: int) -> list[FirmwareRig]:
        rigs.extend(FirmwareRig(tmp_path, **options) for _ in "AB")
        return rigs

    yield make
    for rig in rigs:
        rig.close()


@pytest.mark.slow
@pytest.mark.parametrize(("vcpus", "booted"), [(2, 2), (2, 1)])
def test_firmware_and_its_interrupt_controllers(
    firmware_rigs: Callable[..., list[FirmwareRig]], vcpus: int, booted: int, until: Until
) -> None:
    source, destination = firmware_rigs(vcpus=vcpus, booted=booted)
    first = still(source.accel.save_state())
    source.accel.engine.cont()
    until(lambda: source.progress() > 1000)
    source.accel.engine.stop()
    until(lambda: source.accel.engine.count(VcpuState.PARKED) == vcpus)
    state = still(source.accel.save_state())
    for name in ("lapic", "sregs2", "regs"):
        assert state["vcpus"][0][name] != first["vcpus"][0][name]
    asleep = booted < vcpus
    assert (state["vcpus"][-1]["mp_state"] != state["vcpus"][0]["mp_state"]) == asleep
    move(source, destination)
    assert still(destination.accel.save_state()) == state
    stopped = destination.progress()
    destination.accel.engine.cont()
    until(lambda: destination.progress() > stopped + 1000)
    destination.accel.engine.stop()
    until(lambda: destination.accel.engine.count(VcpuState.PARKED) == vcpus)
    mp_states = [vcpu["mp_state"] for vcpu in destination.accel.save_state()["vcpus"]]
    assert mp_states == [vcpu["mp_state"] for vcpu in state["vcpus"]]


def test_a_state_of_a_machine_without_interrupt_controllers(
    firmware_rigs: Callable[..., list[FirmwareRig]],
) -> None:
    rig, other = firmware_rigs(vcpus=1, booted=1)
    plain = Rig("kvm", vcpus=1)
    try:
        with pytest.raises(ValueError, match=r"^VM: component 'pic_master' is missing; expected "):
            rig.accel.load_state(plain.accel.save_state())
        with pytest.raises(ValueError, match=r"^VM: component 'ioapic' is unknown; expected "):
            plain.accel.load_state(rig.accel.save_state())
    finally:
        plain.close()
    state = other.accel.save_state()
    state["vm"]["ioapic"] = state["vm"]["pic_slave"]
    text = "^VM: ioapic: begins with 01000000, expected 02000000$"
    with pytest.raises(ValueError, match=text):
        rig.accel.load_state(state)


# Refusals.

Spoil = Callable[[dict[str, Any]], object]

COMMON: list[tuple[Spoil, str]] = [
    (lambda s: s.pop("vm"), r"^state: expected an object with the members vm and vcpus$"),
    (lambda s: s.update(more=1), r"^state: expected an object with the members vm and vcpus$"),
    (lambda s: s.update(vcpus={}), r"^state: has no list of vCPUs, expected 2$"),
    (lambda s: s["vcpus"].pop(), r"^state: has 1 vCPUs, expected 2$"),
    (lambda s: s["vcpus"].append(s["vcpus"][0]), r"^state: has 3 vCPUs, expected 2$"),
    (lambda s: s.update(vm=[]), r"^VM: not an object; expected "),
    (lambda s: s["vcpus"].insert(1, s["vcpus"].pop() and None), r"^vCPU 1: not an object"),
    (lambda s: s["vm"].update(pit=1), r"^VM: component 'pit' is unknown; expected .*realtime"),
    (lambda s: s["vm"].pop("realtime"), r"^VM: component 'realtime' is missing; expected "),
    (lambda s: s["vm"].update(realtime="1"), r"^VM: realtime: '1' is not an integer from 0 to "),
    (lambda s: s["vm"].update(realtime=1 << 64), r"^VM: realtime: 18446744073709551616 is not an"),
    (lambda s: s["vm"].update(realtime=True), r"^VM: realtime: True is not an integer"),
    (lambda s: s["vcpus"][1].pop("thread"), r"^vCPU 1: component 'thread' is missing; expected "),
    (lambda s: s["vcpus"][1].update(fpu=""), r"^vCPU 1: component 'fpu' is unknown; expected "),
    (
        lambda s: s["vcpus"][0]["thread"].update(state="running"),
        r"^vCPU 0: thread: state 'running': expected parked, halted, failed$",
    ),
    (lambda s: s["vcpus"][0]["thread"].update(state=[]), r"^vCPU 0: thread: state \[\]: expected "),
    (
        lambda s: s["vcpus"][0].update(thread="parked"),
        r"^vCPU 0: thread: expected an object with the members state and exit_reason$",
    ),
    (
        lambda s: s["vcpus"][1]["thread"].update(exit_reason=1 << 32),
        r"^vCPU 1: thread: 4294967296 is not an integer from 0 to 4294967295$",
    ),
]

SOFT: list[tuple[Spoil, str]] = [
    (
        lambda s: s["vcpus"][1].update(guest="AAAA"),
        r"^vCPU 1: guest: has 3 bytes, expected 16$",
    ),
    (lambda s: s["vcpus"][1].update(guest="?"), r"^vCPU 1: guest: invalid base64$"),
    (lambda s: s["vcpus"][1].update(guest="\xe9"), r"^vCPU 1: guest: invalid base64$"),
    (lambda s: s["vcpus"][0].update(guest=b""), r"^vCPU 0: guest: not a string; expected base64$"),
    (
        lambda s: s["vcpus"][0].update(lateness=1 << 63),
        r"^vCPU 0: lateness: 9223372036854775808 is not an integer from -9223372036854775807 to ",
    ),
]

REFUSED = r"this host refuses the value \(Invalid argument\); expected the state of a host with"

KVM: list[tuple[Spoil, str]] = [
    (
        lambda s: s["vcpus"][1].update(sregs=s["vcpus"][1].pop("sregs2")),
        r"^vCPU 1: component 'sregs' is unknown; expected sregs2, regs, ",
    ),
    (lambda s: s["vcpus"][1].update(regs="AAAA"), r"^vCPU 1: regs: has 3 bytes, expected 144$"),
    (lambda s: s["vcpus"][1].update(xsave2="AAAA"), r"^vCPU 1: xsave2: has 3 bytes, expected \d+$"),
    (
        lambda s: s["vcpus"][0].update(msrs="AAAA"),
        r"^vCPU 0: msrs: has 3 bytes, expected a multiple of 16$",
    ),
    (
        lambda s: s["vcpus"][0].update(msrs="A" * 128),
        r"^vCPU 0: msrs: has an MSR twice, expected each once$",
    ),
    (
        lambda s: set_msrs(s["vcpus"][0], {0x10: 0}),
        r"^vCPU 0: msrs: has MSR 0x10, expected it as component 'tsc'$",
    ),
    (
        lambda s: set_msrs(s["vcpus"][1], {NO_MSR: 1}),
        r"^vCPU 1: msrs: this host refuses MSR 0xdead with the value 0x1; expected the state of a",
    ),
    (
        lambda s: set_msrs(s["vcpus"][1], {POLL_CONTROL: 2, SYSENTER_CS: 0x1230}),
        r"^vCPU 1: msrs: this host refuses MSR 0x4b564d05 with the value 0x2; ",
    ),
    (
        lambda s: edit(s["vcpus"][1], "sregs2", CR4, bytes(8)),  # long mode without PAE
        r"^vCPU 1: sregs2: " + REFUSED,
    ),
    (lambda s: edit(s["vcpus"][1], "xcrs", 16, bytes(8)), r"^vCPU 1: xcrs: " + REFUSED),
    (lambda s: edit(s["vcpus"][1], "mp_state", 0, b"\x63"), r"^vCPU 1: mp_state: " + REFUSED),
    (
        lambda s: edit(s["vcpus"][0], "vcpu_events", 20, b"\xff" * 4),
        r"^vCPU 0: vcpu_events: " + REFUSED,
    ),
    (lambda s: s["vcpus"][0].update(tsc=-1), r"^vCPU 0: tsc: -1 is not an integer from 0 to "),
    (lambda s: s["vm"].update(clock=1 << 63), r"^VM: clock: 9223372036854775808 is not an integer"),
    (lambda s: s["vm"].update(cpuid=1), r"^VM: cpuid: not an object; expected CPUID registers$"),
    (
        lambda s: s["vm"]["cpuid"].update({"0x7.0.ebx": 0xFFFFFFFF}),
        r"^VM: cpuid: this host lacks features 0x[0-9a-f]+ of 0x7\.0\.ebx, expected no more than",
    ),
    (
        lambda s: s["vm"]["cpuid"].update({"0x99.0.eax": 4}),
        r"^VM: cpuid: this host lacks features 0x4 of 0x99\.0\.eax, expected no more than 0x0$",
    ),
    (
        lambda s: s["vm"]["cpuid"].update({"0x1.0.edx": -1}),
        r"^VM: cpuid: -1 is not an integer from 0 to ",
    ),
    (lambda s: s["vm"].update(tsc_khz=0), r"^VM: tsc_khz: 0 is not an integer from 1 to "),
]


def check_refused(rig: Rig, spoil: Spoil, text: str) -> None:
    """Load a spoilt state of another machine; it must be refused, and change nothing."""
    rig.engine.cont()
    rig.advance(100)
    rig.park()
    before = still(rig.accel.save_state())
    other = rig.accel.save_state()
    for name in ("regs", "guest"):  # would be noticed if it were loaded
        for vcpu in other["vcpus"]:
            if name in vcpu:
                edit(vcpu, name, 0, struct.pack("=Q", 77))
    spoil(other)
    with pytest.raises(ValueError, match=text):
        rig.accel.load_state(other)
    assert still(rig.accel.save_state()) == before
    rig.engine.cont()
    rig.advance(100)
    rig.park()
    for index in range(rig.vcpus):
        with rig.guest.page_counters(index) as counters:
            assert sum(counters) - rig.progress()[index] in (0, 1)


def ids(cases: list[tuple[Spoil, str]]) -> list[str]:
    return [text.strip("^$")[:40] for _, text in cases]


@pytest.mark.parametrize(("spoil", "text"), COMMON, ids=ids(COMMON))
def test_refusals(make_rig: MakeRig, spoil: Spoil, text: str) -> None:
    check_refused(make_rig(pattern="random"), spoil, text)


@only_soft
@pytest.mark.parametrize(("spoil", "text"), SOFT, ids=ids(SOFT))
def test_refusals_on_soft(make_rig: MakeRig, spoil: Spoil, text: str) -> None:
    check_refused(make_rig(pattern="random"), spoil, text)


@only_kvm
@pytest.mark.parametrize(("spoil", "text"), KVM, ids=ids(KVM))
def test_refusals_on_kvm(make_rig: MakeRig, spoil: Spoil, text: str) -> None:
    check_refused(make_rig(pattern="random"), spoil, text)


@pytest.mark.parametrize("state", [None, [], "", 1, {}])
def test_a_state_that_is_none(make_rig: MakeRig, state: object) -> None:
    with pytest.raises(ValueError, match=r"^state: expected an object with"):
        make_rig().accel.load_state(state)
