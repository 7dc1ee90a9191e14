"""An engine with the guest `dirty` on either accelerator, without the rest of the machine."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.vm.accel import Accelerator, AccelOptions, Controller, ReaperMode, open_accelerator
from qmpserver.vm.accel.engine import Engine, VcpuState
from qmpserver.vm.accel.memory import Ram, Slot
from qmpserver.vm.accel.native._native import lib
from qmpserver.vm.machine.guest import DirtyGuest
from tests.conftest import readable

PATIENCE = 20.0
OUT = (VcpuState.PARKED, VcpuState.HALTED, VcpuState.FAILED)


class Leftovers:
    """What an engine could leave in this process: its threads, and more descriptors."""

    def __init__(self) -> None:
        self._files = self._open_files()

    @staticmethod
    def _open_files() -> Counter[str]:
        names: Counter[str] = Counter()
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one that lists them
                names[str(fd.readlink())] += 1
        return names

    @property
    def files(self) -> list[str]:
        return sorted(self._open_files() - self._files)

    @property
    def threads(self) -> list[str]:
        names = []
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                names.append((task / "comm").read_text().strip())
        return sorted(name for name in names if name.startswith("CPU ") or name == "kvm-reaper")


class Rig:
    """RAM, a guest, its vCPUs, started and parked; dirty pages are logged if `track`.

    RAM is two slots if `split` tells the second one's first page.
    """

    def __init__(
        self,
        accel: str,
        *,
        ring: int = 4096,
        reaper: ReaperMode = "event",
        dirty_limit: Controller = "pacer",
        vcpus: int = 2,
        ram: int = 64 << 20,
        track: bool = True,
        split: int = 0,
        prepare: Callable[["Rig"], None] = lambda _rig: None,
        **options: str,
    ) -> None:
        self.ram = Ram(ram)
        if split:
            rest = Slot(split * 4096, split, self.ram.pages - split)
            self.ram.slots = [Slot(0, 0, split), rest]
        self.vcpus = vcpus
        self._closed = False
        self.accel: Accelerator
        self.accel, _ = open_accelerator(self.ram, [AccelOptions(accel, ring, reaper, dirty_limit)])
        self.engine: Engine = self.accel.engine
        self.guest = DirtyGuest(options, self.ram.buffer, vcpus, self.accel.clock_hz)
        self.guest.load()
        self.accel.add_vcpus(self.guest, vcpus)
        prepare(self)
        try:
            self.engine.start(stopped=True)
        except OSError:
            self.close()
            raise
        if track:
            self.track(True)
        self.wait_out()

    def track(self, on: bool) -> None:
        self.engine.set_tracking(on)

    def wait_out(self, *states: VcpuState) -> None:
        """Wait until each vCPU is in one of these states, or out; the engine's descriptor tells."""
        deadline = time.monotonic() + PATIENCE
        while sum(self.engine.count(state) for state in states or OUT) < self.vcpus:
            assert readable(self.engine.notify_fd, PATIENCE)
            assert time.monotonic() < deadline, [self.engine.vcpu(i) for i in range(self.vcpus)]
            os.eventfd_read(self.engine.notify_fd)

    # What only tests ask of the software accelerator: see engine.h.

    def soft_overrun(self, stores: int) -> None:
        lib.soft_overrun(self.engine._ptr, stores)

    def soft_interrupt_reset(self) -> None:
        lib.soft_interrupt_reset(self.engine._ptr)

    def soft_cut_reset(self) -> None:
        lib.soft_cut_reset(self.engine._ptr)

    def soft_buffer_log(self) -> None:
        lib.soft_buffer_log(self.engine._ptr)

    def park(self) -> None:
        self.engine.stop()
        self.wait_out()

    def limit(self, cpu_index: int | None, mb_per_s: int) -> None:
        self.engine.limit_set(cpu_index, mb_per_s)
        self.engine.limit_kick(cpu_index)

    def cancel(self, cpu_index: int | None) -> None:
        self.engine.limit_cancel(cpu_index)
        self.engine.limit_kick(cpu_index)

    def progress(self) -> list[int]:
        return [self.guest.progress(index) for index in range(self.vcpus)]

    def advance(self, stores: int = 1) -> None:
        """Wait until each vCPU has made so many stores more."""
        goal = [progress + stores for progress in self.progress()]
        deadline = time.monotonic() + PATIENCE
        while any(now < then for now, then in zip(self.progress(), goal, strict=True)):
            assert time.monotonic() < deadline, "the guest does not get on"
            time.sleep(0.0005)

    def contents(self) -> dict[int, int]:
        """Each page's counter, by the number of the RAM page."""
        contents: dict[int, int] = {}
        for index in range(self.vcpus):
            first = self.guest.layout.base(index) // 4096
            with self.guest.page_counters(index) as counters:
                contents.update(enumerate(counters.tolist(), first))
        return contents

    def marked(self) -> set[int]:
        """Take the bitmap, as the numbers of its pages."""
        bits = int.from_bytes(self.engine.take_bitmap(), "little")
        return {page for page in range(self.ram.pages) if bits >> page & 1}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.accel.close()
            self.ram.close()


MakeRig = Callable[..., Rig]


@pytest.fixture
def leftovers() -> Leftovers:
    return Leftovers()


@pytest.fixture
def make_rig(accel: str, leftovers: Leftovers) -> Iterator[MakeRig]:
    """Make rigs on the test's accelerator; they are closed after it."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rigs.append(Rig(accel, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
    assert not leftovers.threads
    assert not leftovers.files
