"""kvm.py: what the kernel may refuse or interrupt, and the state that a reset restores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from qmpserver.bench.firmware import firmware_image
from qmpserver.vm.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.kvm import Kvm, KvmAccelerator, VmFd
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.firmware import Firmware

RAM = 64 << 20
MSR_SYSENTER_CS, MSR_WALL_CLOCK = 0x174, 0x4B564D00
PIC, IOAPIC = 0, 2

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
    kvm = Kvm()
    calls = 0
    real = Kvm._ioctl

    def interrupted(self: Kvm, request: int, arg: Any = 0) -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise InterruptedError
        return real(self, request, arg)

    monkeypatch.setattr(Kvm, "_ioctl", interrupted)
    kvm.create_vm().close()
    kvm.close()
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
    [vcpu] = accelerator._vcpu_fds
    chips = [bytes(_buffer(accelerator._vm.get_irqchip(number))) for number in (PIC, IOAPIC)]
    fpu = vcpu.get_fpu()
    control = fpu.fcw
    fpu.fcw ^= 0x300
    vcpu.set_fpu(fpu)
    first = vcpu.get_msr(MSR_SYSENTER_CS)
    assert vcpu.set_msr(MSR_SYSENTER_CS, 0x1230)
    for number in (PIC, IOAPIC):
        chip = accelerator._vm.get_irqchip(number)
        _buffer(chip)[40 if number == IOAPIC else 10] = b"\x01"
        accelerator._vm.set_irqchip(chip)
        assert bytes(_buffer(accelerator._vm.get_irqchip(number))) not in chips
    accelerator.reset_vcpus()
    assert vcpu.get_fpu().fcw == control
    assert vcpu.get_msr(MSR_SYSENTER_CS) == first
    assert [bytes(_buffer(accelerator._vm.get_irqchip(n))) for n in (PIC, IOAPIC)] == chips


def _buffer(value: Any) -> Any:
    return ffi.buffer(value)


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
    assert [vcpu.get_msr(MSR_WALL_CLOCK) for vcpu in accelerator._vcpu_fds] == [0, 0]


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
