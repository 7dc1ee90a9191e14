"""Two machines in one process, and migrations between them through real sockets."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from qmpserver.migration.address import parse_uri
from qmpserver.monitor.fds import FileDescriptors, Passed
from qmpserver.vm.accel import AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.machine.guest import DirtyGuest
from qmpserver.vm.machine.machine import Machine
from tests.conftest import PATIENCE
from tests.vm.conftest import Leftovers

ENDED = ("completed", "failed", "cancelled")


_fds = FileDescriptors()
NOTHING_PASSED = Passed(_fds.take_named, _fds.duplicate)


class Side:
    """A machine with the guest `dirty`, its migration, and the events that it emitted."""

    def __init__(
        self,
        accel: str,
        *,
        ram: int = 64 << 20,
        vcpus: int = 2,
        ring: int = 4096,
        incoming: bool = False,
        stopped: bool = False,
        **guest: str,
    ) -> None:
        memory = Ram(ram)
        opened, _ = open_accelerator(memory, [AccelOptions(accel, ring)])
        program = DirtyGuest(guest, memory.buffer, vcpus, opened.clock_hz)
        program.load()
        opened.add_vcpus(program, vcpus)
        self.guest = program
        self.machine = Machine(memory, opened, program)
        self.migration = self.machine.migration
        self.migration.capabilities.set({"events": True}, ring=bool(ring), under_way=False)
        self.migration.set_parameters({"max-bandwidth": 0})  # or a busy guest never converges
        self.events: list[str] = []
        self._told = asyncio.Event()
        self._closed = False
        self.machine.emit = self._emit
        self.machine.start(stopped=stopped, incoming=incoming)

    def _emit(self, event: str, data: dict[str, Any] | None) -> None:
        self.events.append(data["status"] if event == "MIGRATION" and data else event)
        self._told.set()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that an event changes."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._told.clear()
                await self._told.wait()

    async def ended(self) -> str:
        """Wait for the end of the migration and return its status."""
        await self.wait(lambda: self.migration.status in ENDED)
        return self.migration.status

    @property
    def error(self) -> str:
        return str(self.migration.info().get("error-desc"))

    def progress(self) -> list[int]:
        return [self.guest.progress(index) for index in range(self.machine.accel.engine.vcpus)]

    async def advance(self, stores: int = 1) -> None:
        """Wait until each vCPU has made so many stores more."""
        goal = [progress + stores for progress in self.progress()]
        await asyncio.to_thread(self._wait_progress, goal)

    def _wait_progress(self, goal: list[int]) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(now < then for now, then in zip(self.progress(), goal, strict=True)):
            assert time.monotonic() < deadline, "the guest does not get on"
            time.sleep(0.0005)

    def counters(self) -> list[int]:
        """Return the sum of the page counters of each vCPU."""
        sums = []
        for index in range(self.machine.accel.engine.vcpus):
            with self.guest.page_counters(index) as pages:
                sums.append(sum(pages))
        return sums

    def assert_whole(self) -> None:
        """Each store was counted in its page; the guest must be stopped."""
        for progress, counted in zip(self.progress(), self.counters(), strict=True):
            assert counted - progress in (0, 1)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.machine.close()


@contextlib.asynccontextmanager
async def opened(*sides: Side) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for side in sides:
            await side.close()


MakeSide = Callable[..., Side]


@pytest_asyncio.fixture
async def side(accel: str) -> AsyncIterator[MakeSide]:
    """Make machines on the test's accelerator; they are closed after it, and nothing is left."""
    leftovers = Leftovers()
    sides: list[Side] = []

    def make(**options: Any) -> Side:
        sides.append(Side(accel, **options))
        return sides[-1]

    yield make
    for made in sides:
        await made.close()
    assert not leftovers.threads
    assert not leftovers.files


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    yield f"unix:{tmp_path}/m.sock"
    assert not (tmp_path / "m.sock").exists()


async def migrate(source: Side, destination: Side, uri: str) -> tuple[str, str]:
    """Migrate to the end; return both statuses."""
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    return await source.ended(), await destination.ended()


def assert_same_ram(source: Side, destination: Side) -> None:
    """Compare all pages; neither side may run."""
    ours, theirs = source.machine.ram.buffer, destination.machine.ram.buffer
    differing = [
        page
        for page in range(0, len(ours), 4096)
        if ours[page : page + 4096] != theirs[page : page + 4096]
    ]
    assert not differing, [hex(page) for page in differing[:10]]
