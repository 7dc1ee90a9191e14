"""Firmware on KVM: the vCPUs start at the reset vector, and wake each other."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.bench.firmware import firmware_image
from qmpserver.vm.accel import Accelerator, AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.machine.firmware import Firmware, FirmwareError
from qmpserver.vm.machine.guest import DirtyGuest
from tests.conftest import Until

RAM = 64 << 20


@pytest.fixture
def ram() -> Iterator[Ram]:
    ram = Ram(RAM)
    yield ram
    ram.close()


def image(directory: Path, vcpus: int) -> str:
    if platform.machine() != "x86_64":
        pytest.skip("an image's machine code is x86-64's, and built there only")
    path = directory / "dirty.bin"
    path.write_bytes(firmware_image(RAM, vcpus))
    return str(path)


@pytest.fixture
def accelerator(ram: Ram, kvm: None) -> Iterator[Accelerator]:
    accelerator, _ = open_accelerator(ram, [AccelOptions("kvm", 1024)])
    yield accelerator
    accelerator.close()


@pytest.mark.parametrize("vcpus", [1, 3])
@pytest.mark.slow
def test_boots_to_the_guest(
    tmp_path: Path, ram: Ram, accelerator: Accelerator, vcpus: int, until: Until
) -> None:
    firmware = Firmware(image(tmp_path, vcpus), ram.buffer)
    firmware.load()
    accelerator.add_vcpus(firmware, vcpus)
    guest = DirtyGuest({}, ram.buffer, vcpus, accelerator.clock_hz)  # to look at, not loaded
    engine = accelerator.engine
    engine.start(stopped=False)
    until(lambda: all(guest.progress(index) for index in range(vcpus)))
    engine.set_tracking(True)
    until(lambda: all(guest.progress(index) > 200_000 for index in range(vcpus)))
    # Its rings and limits are as another's.
    assert all(engine.vcpu(index).full_exits for index in range(vcpus))
    engine.limit_set(None, 50)
    engine.limit_kick(None)
    until(lambda: all(engine.vcpu(index).throttle_count > 2 for index in range(vcpus)))
    engine.limit_cancel(None)
    engine.limit_kick(None)
    stores = [guest.progress(index) for index in range(vcpus)]
    until(lambda: all(guest.progress(index) > stores[index] + 20_000 for index in range(vcpus)))


@pytest.mark.slow
def test_processors_nobody_wakes_stay_asleep(
    tmp_path: Path, ram: Ram, accelerator: Accelerator, until: Until
) -> None:
    firmware = Firmware(image(tmp_path, 1), ram.buffer)
    firmware.load()
    accelerator.add_vcpus(firmware, 2)
    guest = DirtyGuest({}, ram.buffer, 2, accelerator.clock_hz)
    accelerator.engine.start(stopped=False)
    until(lambda: guest.progress(0) > 20_000)
    assert guest.progress(1) == 0
    accelerator.engine.stop()
    until(lambda: all(accelerator.engine.vcpu(index).state.name == "PARKED" for index in (0, 1)))


def test_refusals(tmp_path: Path, ram: Ram) -> None:
    with pytest.raises(FirmwareError, match=r"^could not load PC BIOS '/none': No such file"):
        Firmware("/none", ram.buffer)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(FirmwareError, match=f"'{path}': not a regular file"):
            Firmware(str(path), ram.buffer)
    for size in (0, 1000, 9 << 20):
        (tmp_path / "odd").write_bytes(bytes(size))
        with pytest.raises(FirmwareError, match=f"it has {size} bytes, not a multiple of 65536"):
            Firmware(str(tmp_path / "odd"), ram.buffer)
    with pytest.raises(FirmwareError, match="1 MiB of RAM"):
        Firmware(image(tmp_path, 1), memoryview(bytes(4096)))
    soft, _ = open_accelerator(ram, [AccelOptions("soft")])
    try:
        with pytest.raises(AcceleratorError, match="runs the guest 'dirty' and no other"):
            soft.add_vcpus(Firmware(image(tmp_path, 1), ram.buffer), 1)
    finally:
        soft.close()
