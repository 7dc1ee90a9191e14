"""The guest `stress` on KVM: the lines that it sends, and the memory that it writes over."""

import asyncio
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from qmpserver.monitor.channel import Channel
from qmpserver.vm.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.accel.native._native import lib
from qmpserver.vm.machine.guest import GuestError
from qmpserver.vm.machine.machine import Machine
from qmpserver.vm.machine.serial import SerialPort
from qmpserver.vm.machine.stress import StressGuest
from qmpserver.vm.trace.writers import LineWriter
from tests.conftest import PATIENCE

MIB = 1 << 20
LINE = re.compile(rb"stress \(0000([01])\): INFO: ([0-9]{13})ms copied 1 GB in ([0-9]{8})ms\r\n")


class Line:
    """A line of the guest's: of which vCPU, when, and after how long, in ms."""

    def __init__(self, text: bytes) -> None:
        match = LINE.fullmatch(text)
        assert match is not None, text
        self.cpu, self.now, self.took = map(int, match.groups())


def milliseconds() -> float:
    return time.time_ns() / 1e6


@asynccontextmanager
async def running(size: str, vcpus: int) -> AsyncIterator[tuple[Machine, asyncio.StreamReader]]:
    ram = Ram(64 * MIB)
    accelerator, _ = open_accelerator(ram, [AccelOptions("kvm", 1024)])
    guest = StressGuest(
        {"size": size}, ram.buffer, vcpus, accelerator.clock_hz, accelerator.read_clock
    )
    accelerator.add_vcpus(guest, vcpus)
    guest.load()
    machine = Machine(ram, accelerator, guest, trace=LineWriter(sys.stderr))
    machine.serial = SerialPort(machine.accel.engine)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    machine.serial.attach(Channel(asyncio.get_running_loop(), ours))
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    machine.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield machine, reader
    finally:
        writer.close()
        await machine.close()


async def test_each_vcpu_tells_the_time_that_a_gib_took(kvm: None) -> None:
    began = milliseconds()
    async with running("24M", 2) as (_, reader):
        last: dict[int, Line] = {}
        while len(last) < 2 or last[0].now == last[1].now:
            line = Line(await reader.readuntil(b"\n"))  # whole, whatever the other vCPU sends
            assert began + line.took <= line.now + 1
            assert line.now <= milliseconds() + 1
            if line.cpu in last:
                # Between two lines of a vCPU are the GiB and the time to send the line.
                between = line.now - last[line.cpu].now
                assert between / 2 - 1 <= line.took <= between + 1
            last[line.cpu] = line


async def test_the_time_goes_on_while_the_machine_is_stopped(kvm: None) -> None:
    async with running("8M", 1) as (machine, reader):
        await reader.readuntil(b"\n")
        await machine.stop()
        stopped = milliseconds()
        await asyncio.sleep(1)  # longer than a GiB takes
        resumed = milliseconds()
        await machine.cont()
        now = 0
        while now < resumed:  # lines from before the stop may be on their way
            now = Line(await reader.readuntil(b"\n")).now
            assert not stopped < now < resumed - 1


async def test_after_a_reset_the_time_of_day_is_right(kvm: None) -> None:
    async with running("8M", 1) as (machine, reader):
        await reader.readuntil(b"\n")
        began = milliseconds()
        await machine.reset()
        text = await reader.readuntil(b"\n")
        # The line before the reset may be there, or a part of it.
        while (match := LINE.search(text)) is None or int(match[2]) < began:
            text = await reader.readuntil(b"\n")
        assert began + int(match[3]) <= int(match[2]) + 1
        assert int(match[2]) <= milliseconds() + 1


async def test_writes_over_all_of_its_working_set_and_nothing_else(kvm: None) -> None:
    async with running("8M", 2) as (machine, reader):
        await reader.readuntil(b"\n")
        await machine.stop()
        sets: int = lib.GUEST_SETS
        end = sets + 2 * 8 * MIB
        memory = machine.ram.buffer
        with memoryview(memory)[sets:end].cast("Q") as words:
            assert all(words.tolist())
        assert not any(memory[end:])
        assert not any(memory[: lib.GUEST_IMAGE])


@pytest.fixture
def ram() -> Iterator[Ram]:
    ram = Ram(8 * MIB)
    yield ram
    ram.close()


@pytest.mark.parametrize(
    ("options", "vcpus", "error"),
    [
        ({"rate": "1"}, 1, "guest stress: unknown option 'rate'; expected size"),
        ({"size": "5000"}, 1, "guest stress: invalid size '5000'; expected a multiple of 4096"),
        ({"size": "8M"}, 1, "guest stress: 1 vCPUs with 2048 pages each need 10 MiB of RAM"),
        ({"size": "2G"}, 2, "do not fit below 3 GiB; the most possible is"),
        ({}, 250, "guest stress: 250 vCPUs; expected 1 to 249"),
    ],
)
def test_refusals(ram: Ram, options: dict[str, str], vcpus: int, error: str) -> None:
    with pytest.raises(GuestError, match=re.escape(error)):
        StressGuest(options, ram.buffer, vcpus, 10**9, time.monotonic_ns)


def test_the_software_accelerator_does_not_run_it(ram: Ram) -> None:
    accelerator, _ = open_accelerator(ram, [AccelOptions("soft", 1024)])
    guest = StressGuest({}, ram.buffer, 1, accelerator.clock_hz, accelerator.read_clock)
    with pytest.raises(AcceleratorError, match="runs the guest 'dirty' and no other program"):
        accelerator.add_vcpus(guest, 1)
    accelerator.close()
