"""Boot sectors on KVM, their serial port, and memory as tests of QEMU's see it."""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmpserver.monitor.channel import Channel
from qmpserver.vm.accel import AcceleratorError, AccelOptions, Guest, open_accelerator
from qmpserver.vm.accel.memory import HIGH_START, LOW_END, PAGE_SIZE, Ram
from qmpserver.vm.machine.bootsector import ADDRESS, BootSector
from qmpserver.vm.machine.guest import DirtyGuest, GuestError
from qmpserver.vm.machine.machine import Machine
from qmpserver.vm.machine.physical import PhysicalMemory
from qmpserver.vm.machine.serial import SerialPort
from qmpserver.vm.trace.writers import LineWriter
from tests.conftest import PATIENCE, Until

RAM = 64 << 20
COUNTER = 0x8000
# Sends "boot", "!" hidden behind the divisor, and "." for ever; counts the dots at COUNTER.
SENDS = (
    bytes.fromhex(
        "ba f8 03"  # mov dx, 0x3f8
        "be 31 7c"  # mov si, text
        "b9 04 00"  # mov cx, 4
        "f3 6e"  # rep outsb
        "ba fb 03 b0 80 ee"  # the divisor latch
        "ba f8 03 b0 21 ee"  # '!'
        "ba fb 03 b0 03 ee"  # eight bits
        "ba f8 03 b0 2e"  # '.'
        "ee"  # out dx, al
        "66 ff 06 00 80"  # inc dword [0x8000]
        "eb f8"  # jmp to the out
    ).ljust(0x31, b"\x90")
    + b"boot"
)


def sector(path: Path, code: bytes) -> str:
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


@pytest.fixture
def ram() -> Iterator[Ram]:
    ram = Ram(RAM)
    yield ram
    ram.close()


def count(ram: Ram) -> int:
    return int(struct.unpack_from("<I", ram.buffer, COUNTER)[0])


async def made(
    guest_of: Callable[[Ram], Guest], name: str, vcpus: int = 1, size: int = RAM
) -> Machine:
    ram = Ram(size)
    accelerator, _ = open_accelerator(ram, [AccelOptions(name, 1024)])
    guest = guest_of(ram)
    guest.load()
    accelerator.add_vcpus(guest, vcpus)
    return Machine(ram, accelerator, guest, trace=LineWriter(sys.stderr))


async def listener(machine: Machine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the client of a serial port, which it gives the machine."""
    machine.serial = SerialPort(machine.accel.engine)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    machine.serial.attach(Channel(asyncio.get_running_loop(), ours))
    return await asyncio.open_unix_connection(sock=theirs, limit=8 << 20)


async def test_runs_from_its_entry_and_again_after_a_reset(
    kvm: None, tmp_path: Path, until: Until
) -> None:
    path = sector(tmp_path / "disk", SENDS)
    machine = await made(lambda ram: BootSector(path, ram.buffer), "kvm", vcpus=2)
    reader, writer = await listener(machine)
    try:
        async with asyncio.timeout(PATIENCE):
            machine.start()
            assert await reader.readexactly(7) == b"boot..."
            await machine.reset()
            assert (await reader.readuntil(b"boot")).strip(b".") == b"boot"
            # Nobody reads: the guest goes on.
            await machine.stop()
            counted = count(machine.ram)
            await machine.cont()
            until(lambda: count(machine.ram) > counted + 100_000)
    finally:
        writer.close()
        await machine.close()


async def test_a_reset_brings_the_serial_port_into_its_first_state(
    kvm: None, tmp_path: Path
) -> None:
    # 'x', then the divisor latch, which hides what is sent
    code = bytes.fromhex("ba f8 03 b0 78 ee ba fb 03 b0 80 ee eb fe")
    path = sector(tmp_path / "disk", code)
    machine = await made(lambda ram: BootSector(path, ram.buffer), "kvm")
    reader, writer = await listener(machine)
    try:
        async with asyncio.timeout(PATIENCE):
            machine.start()
            for _ in range(2):
                assert await reader.readexactly(1) == b"x"
                await machine.reset()
    finally:
        writer.close()
        await machine.close()


def test_refusals(tmp_path: Path, ram: Ram) -> None:
    with pytest.raises(GuestError, match=r"^Could not open '/none': No such file"):
        BootSector("/none", ram.buffer)
    for content in (b"", bytes(512), b"\x55\xaa", bytes(511) + b"\x55\xaa"):
        (tmp_path / "disk").write_bytes(content)
        with pytest.raises(GuestError, match="no boot sector: 512 bytes that end in 55 aa"):
            BootSector(str(tmp_path / "disk"), ram.buffer)
    path = sector(tmp_path / "disk", SENDS)
    with pytest.raises(GuestError, match="needs 32256 bytes of RAM"):
        BootSector(path, memoryview(ram.buffer)[:ADDRESS])
    accelerator, _ = open_accelerator(ram, [AccelOptions("soft", 1024)])
    with pytest.raises(AcceleratorError, match="runs the guest 'dirty' and no other"):
        accelerator.add_vcpus(BootSector(path, ram.buffer), 1)
    accelerator.close()


async def test_vcpus_of_qtest_execute_nothing() -> None:
    machine = await made(lambda ram: DirtyGuest({}, ram.buffer, 2, 10**9), "qtest", vcpus=2)
    guest = machine.guest
    assert isinstance(guest, DirtyGuest)
    try:
        async with asyncio.timeout(PATIENCE):
            machine.start()
            assert machine.running
            machine.tracking.acquire("test")
            await machine.tracking.wait()
            await machine.stop()
            await machine.cont()
            await machine.reset()
            assert [guest.progress(index) for index in range(2)] == [0, 0]
            assert machine.accel.engine.pages() == [0, 0]
    finally:
        await machine.close()


async def test_memory_has_holes_and_writes_make_it_dirty() -> None:
    high = 2 * PAGE_SIZE
    machine = await made(
        lambda ram: DirtyGuest({"pages": "1"}, ram.buffer, 1, 10**9), "qtest", size=LOW_END + high
    )
    try:
        async with asyncio.timeout(PATIENCE):
            machine.start()
            machine.tracking.acquire("test")
            await machine.tracking.wait()
            engine = machine.accel.engine
            engine.take_bitmap()
            engine.take_bitmap()  # both sides
            memory = PhysicalMemory(machine.ram, engine)
            memory.write(LOW_END - 2, b"abcd")  # the last two bytes fall into the hole
            memory.write(HIGH_START + PAGE_SIZE - 1, b"ef")
            memory.write(HIGH_START + high - 1, b"gh")
            assert memory.read(LOW_END - 3, 5) == b"\0ab\0\0"
            assert memory.read(HIGH_START + PAGE_SIZE - 1, 2) == b"ef"
            assert memory.read(HIGH_START + high - 1, 3) == b"g\0\0"
            assert memory.read((1 << 64) - 4, 8) == bytes(8)
            dirty = int.from_bytes(engine.take_bitmap(), "little")
            assert dirty == 0b111 << LOW_END // PAGE_SIZE - 1
    finally:
        await machine.close()
