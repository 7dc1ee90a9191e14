"""The software accelerator: native threads that dirty real memory and follow KVM's ring rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.vm.accel.engine import Engine
from qmpserver.vm.accel.errors import AcceleratorError
from qmpserver.vm.accel.stats import Stat, Statistics, StatValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.entry import Guest
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.options import AccelOptions

CLOCK_HZ = 1_000_000_000  # the guest's clock is CLOCK_MONOTONIC, in ns


class MachineStats:
    """The software accelerator's statistics of the whole machine."""

    stats: Sequence[Stat] = (
        Stat("dirty_pages", "cumulative"),
        Stat("dirty_log", "instant", "boolean"),
    )

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self) -> list[StatValue]:
        """Return all values, in the order of `stats`."""
        return [sum(self._engine.pages()), self._engine.tracking]


class VcpuStats:
    """The software accelerator's statistics of a vCPU."""

    stats: Sequence[Stat] = (
        Stat("dirty_pages", "cumulative"),
        Stat("ring_full_exits", "cumulative"),
        Stat("throttle_ns", "cumulative", "seconds", exponent=-9),
        Stat("throttled", "instant", "boolean"),
    )

    def __init__(self, engine: Engine, index: int) -> None:
        self._engine = engine
        self._index = index

    def read(self) -> list[StatValue]:
        """Return all values, in the order of `stats`."""
        vcpu = self._engine.vcpu(self._index)
        pages = vcpu.harvested + vcpu.waiting
        return [pages, vcpu.full_exits, vcpu.throttle_time, vcpu.throttled]


class SoftAccelerator:
    """Runs the guest `dirty` as C threads (see `native/soft.c`)."""

    name = "soft"

    def __init__(self, ram: Ram, options: AccelOptions) -> None:
        self.dirty_ring_size = options.dirty_ring_size
        self.clock_hz = CLOCK_HZ
        self.engine = Engine(ram, -1, options.reaper, options.dirty_limit)
        self.statistics: Statistics | None = None

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Create `count` vCPUs, each at its entry of `guest`.

        Raises:
            AcceleratorError: The guest is firmware.
            OSError: A vCPU cannot be added.
        """
        for index in range(count):
            entry = guest.entry(index)
            if entry is None:
                raise AcceleratorError(
                    "accelerator soft runs no firmware; leave -bios out, or use -accel kvm"
                )
            self.engine.add_soft_vcpu(entry.rdi, self.dirty_ring_size)
        self.statistics = Statistics(
            "__org.qmpserver_soft",
            MachineStats(self.engine),
            [VcpuStats(self.engine, index) for index in range(count)],
        )

    def reset_vcpus(self) -> None:
        """Restart every vCPU at its guest's entry; all must have stopped."""
        self.engine.restart_vcpus()

    def get_dirty_log(self) -> bytearray:
        """Return and clear the log of dirty pages. Blocks; any thread may call it."""
        return self.engine.soft_take_log()

    def close(self) -> None:
        """End all threads and free everything."""
        self.engine.close()
