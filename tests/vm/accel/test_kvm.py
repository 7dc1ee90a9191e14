"""kvm.py: what the kernel may refuse or interrupt, and the state that a reset restores."""

import struct
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest

from qmpserver.bench.firmware import firmware_image
from qmpserver.vm.accel import AcceleratorError, AccelOptions, kvm, open_accelerator
from qmpserver.vm.accel.kvm import Kvm, KvmAccelerator, VmFd
from qmpserver.vm.accel.kvm_state import MsrList, Msrs
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.firmware import Firmware
from tests.vm.accel.test_state import edit, msrs, still

RAM = 64 << 20
MSR_SYSENTER_CS, MSR_WALL_CLOCK, NO_MSR = 0x174, 0x4B564D00, 0xDEAD

pytestmark = pytest.mark.usefixtures("kvm")


@pytest.fixture
def ram() -> Iterator[Ram]:
    ram = Ram(RAM)
    yield ram
    ram.close()


@pytest.fixture
def accelerator(ram: Ram) -> Iterator[KvmAccelerator]:
    accelerator, _ = open_accelerator(ram, [AccelOptions("kvm", 1024)])
    yield cast("KvmAccelerator", accelerator)
    accelerator.close()


def firmware(directory: Path, ram: Ram, vcpus: int = 1) -> Firmware:
    path = directory / "dirty.bin"
    path.write_bytes(firmware_image(RAM, vcpus))
    return Firmware(str(path), ram.buffer)


def test_creating_a_vm_may_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Kvm()
    calls = 0
    real = Kvm.ioctl

    def interrupted(self: Kvm, request: int, arg: Any = 0) -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise InterruptedError
        return real(self, request, arg)

    monkeypatch.setattr(Kvm, "ioctl", interrupted)
    device.create_vm().close()
    device.close()
    assert calls == 3


def test_firmware_on_more_vcpus_than_there_are_apic_ids(
    tmp_path: Path, ram: Ram, accelerator: KvmAccelerator
) -> None:
    with pytest.raises(AcceleratorError, match="-bios runs 1 to 255 vCPUs, not 256"):
        accelerator.add_vcpus(firmware(tmp_path, ram), 256)


def test_a_reset_under_firmware_restores_everything(
    tmp_path: Path, ram: Ram, accelerator: KvmAccelerator
) -> None:
    accelerator.add_vcpus(firmware(tmp_path, ram), 1)
    first = accelerator.save_state()
    spoilt = deepcopy(first)
    [vcpu] = spoilt["vcpus"]
    edit(vcpu, "regs", 0, b"\x77")
    edit(vcpu, "xsave2", 1, b"\0")  # the x87 control word; its component is in use
    edit(vcpu, "xsave2", 512, b"\x01")
    edit(vcpu, "xcrs", 16, b"\x03")
    edit(vcpu, "debugregs", 0, b"\x77")
    edit(vcpu, "lapic", 0x80, b"\x10")  # the task priority
    edit(vcpu, "msrs", 8, b"\x77")
    edit(spoilt["vm"], "pic_master", 10, b"\1")
    edit(spoilt["vm"], "ioapic", 40, b"\1")
    accelerator.load_state(spoilt)
    changed = accelerator.save_state()
    for name in ("regs", "xsave2", "xcrs", "debugregs", "lapic", "msrs"):
        assert changed["vcpus"][0][name] != first["vcpus"][0][name]
    for name in ("pic_master", "ioapic"):
        assert changed["vm"][name] != first["vm"][name]
    accelerator.reset_vcpus()
    assert still(accelerator.save_state()) == still(first)


def test_more_msrs_than_kvm_takes_at_once(
    tmp_path: Path, ram: Ram, accelerator: KvmAccelerator
) -> None:
    accelerator.add_vcpus(firmware(tmp_path, ram), 1)
    [vcpu] = accelerator._vcpu_fds
    entries = b"".join(struct.pack("=I4xQ", MSR_SYSENTER_CS, value) for value in range(600))
    Msrs(vcpu.ioctl, [MSR_SYSENTER_CS]).load(entries)
    assert MsrList(vcpu.ioctl).get(entries) == entries[-16:] * 600
    unreadable = struct.pack("=I4xQ", NO_MSR, 0)
    assert MsrList(vcpu.ioctl).get(entries[:4800] + unreadable + entries) == entries[-16:] * 300


def test_guests_see_no_virtualization(
    tmp_path: Path, ram: Ram, accelerator: KvmAccelerator
) -> None:
    """The state of a guest's own guests could not be saved."""
    entries = [{"function": leaf, "ecx": 0xFFFFFFFF} for leaf in (1, 7, 0x80000001)]
    cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": 3, "entries": entries})
    kvm._hide_virtualization(cpuid)
    assert [cpuid.entries[i].ecx for i in range(3)] == [0xFFFFFFDF, 0xFFFFFFFF, 0xFFFFFFFB]
    accelerator.add_vcpus(firmware(tmp_path, ram), 1)
    seen = accelerator.save_state()["vm"]["cpuid"]
    assert not seen["0x1.0.ecx"] & 0x20
    assert not seen["0x80000001.0.ecx"] & 4


def test_the_canary_is_not_seen(tmp_path: Path, ram: Ram, accelerator: KvmAccelerator) -> None:
    """Not by the guest, nor in statistics, nor as a vCPU or a thread."""
    accelerator.add_vcpus(firmware(tmp_path, ram), 2)
    assert accelerator.engine.vcpus == 2
    assert len(accelerator.engine.pages()) == 2
    assert accelerator.statistics is not None
    assert len(accelerator.statistics.vcpus) == 2
    canary = accelerator.engine._ptr.log.canary
    assert canary.pushed > 100
    # The address that makes KVM write belongs to the VM; the guest finds none.
    for vcpu in accelerator.save_state()["vcpus"]:
        assert msrs(vcpu)[MSR_WALL_CLOCK] == 0


def test_a_kernel_that_pushes_no_canaries_is_reported(
    tmp_path: Path,
    ram: Ram,
    accelerator: KvmAccelerator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The page's slot is not logged, so no write to it pushes an entry."""
    real = VmFd.set_user_memory_region

    def unlogged(self: VmFd, slot: int, flags: int, gpa: int, size: int, address: int) -> None:
        real(self, slot, flags & ~lib.KVM_MEM_LOG_DIRTY_PAGES, gpa, size, address)

    monkeypatch.setattr(VmFd, "set_user_memory_region", unlogged)
    accelerator.add_vcpus(firmware(tmp_path, ram), 1)
    assert "may go unnoticed" in caplog.text
    assert accelerator.engine._ptr.log.canary.ring.size == 0
