"""The machine between its commands and the engine: events, resets, the end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from qmpserver.vm.accel import AccelOptions, DirtyEntry, open_accelerator
from qmpserver.vm.accel.engine import VcpuState
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.machine.guest import DirtyGuest
from qmpserver.vm.machine.machine import STOPPED, Machine
from qmpserver.vm.trace.writers import LineWriter
from tests.conftest import PATIENCE, Until

VCPUS = 2


class Recorded(list[tuple[str, Any]]):
    """The events that a machine has emitted."""

    def emit(self, name: str, data: dict[str, Any] | None) -> None:
        self.append((name, data))


@pytest.fixture
def events() -> Recorded:
    return Recorded()


@pytest_asyncio.fixture
async def machine(accel: str, events: Recorded) -> AsyncIterator[Machine]:
    ram = Ram(64 << 20)
    accelerator, _ = open_accelerator(ram, [AccelOptions(accel, 4096)])
    guest = DirtyGuest({"rate": "10"}, ram.buffer, VCPUS, accelerator.clock_hz)
    guest.load()
    accelerator.add_vcpus(guest, VCPUS)
    machine = Machine(ram, accelerator, guest, trace=LineWriter(sys.stderr))
    machine.emit = events.emit
    machine.start(stopped=True)
    yield machine
    await machine.close()


async def test_a_reset_marks_the_pages_that_it_writes(machine: Machine) -> None:
    machine.tracking.acquire("test")
    await machine.tracking.wait()
    machine.accel.engine.take_bitmap()
    await machine.reset()
    bits = int.from_bytes(machine.accel.engine.take_bitmap(), "little")
    marked = {page for page in range(machine.ram.pages) if bits >> page & 1}
    assert marked == set(machine.guest.load())


async def test_the_end_is_announced_once(machine: Machine, events: Recorded) -> None:
    machine.shutdown("host-qmp-quit")
    machine.shutdown("host-signal")
    assert events == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]
    assert machine.finished.is_set()


async def test_waiting_for_tracking_fails_when_it_cannot_be_switched_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_on: bool) -> None:
        raise OSError("refused by the test")

    monkeypatch.setattr(machine.accel.engine, "set_tracking", refuse)
    machine.tracking.acquire("test")
    with pytest.raises(OSError, match="could not be switched on"):
        await machine.tracking.wait()


async def test_limits_end_when_tracking_cannot_be_switched_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vCPUs would otherwise be held for ever."""

    def refuse(_on: bool) -> None:
        raise OSError("refused by the test")

    failed = asyncio.Event()
    cancel = machine.tracking.on_failure

    def on_failure() -> None:
        cancel()
        failed.set()

    monkeypatch.setattr(machine.tracking, "on_failure", on_failure)
    monkeypatch.setattr(machine.accel.engine, "set_tracking", refuse)
    await machine.cont()
    machine.dirty_limit.set(10)
    assert machine.accel.engine.limits() == [10] * VCPUS
    async with asyncio.timeout(PATIENCE):
        await failed.wait()
    assert machine.accel.engine.limits() == [0] * VCPUS
    assert machine.dirty_limit.query() == []


@pytest.mark.parametrize("accel", ["soft"], indirect=True)
async def test_the_other_vcpus_of_a_guest_that_failed_have_stopped_too(
    machine: Machine, events: Recorded, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the state after a stop finds none that runs; a failure waits for nothing."""
    running: list[int] = []
    stopped = asyncio.Event()

    async def look() -> None:
        await machine.stop_to_migrate()
        running.append(VCPUS - sum(machine.accel.engine.count(state) for state in STOPPED))
        stopped.set()

    tasks: list[asyncio.Task[None]] = []

    def emit(name: str, data: dict[str, Any] | None) -> None:
        events.emit(name, data)
        if name == "STOP":
            tasks.append(asyncio.get_running_loop().create_task(look()))

    monkeypatch.setattr(machine, "emit", emit)
    control = machine.guest.entry(1)
    assert isinstance(control, DirtyEntry)
    await machine.cont()
    machine.dirty_limit.set(1, 0)  # a vCPU that is throttled runs a little longer before it parks
    await asyncio.to_thread(until, lambda: machine.accel.engine.count(VcpuState.THROTTLED))
    machine.ram.buffer[control.rdi : control.rdi + 8] = (1 << 40).to_bytes(8, "little")
    async with asyncio.timeout(PATIENCE):
        await stopped.wait()
    assert events == [("RESUME", None), ("STOP", None)]
    assert machine.state == "finish-migrate"
    assert running == [0]
