"""The software accelerator: native threads that dirty real memory and follow KVM's ring rules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qmpserver.vm.accel.engine import Engine
from qmpserver.vm.accel.entry import DirtyEntry
from qmpserver.vm.accel.errors import AcceleratorError
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.accel.state import (
    Realtime,
    State,
    Thread,
    check_number,
    decode_structure,
    encode,
)
from qmpserver.vm.accel.stats import Stat, Statistics, StatValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.entry import Guest
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.options import AccelOptions

CLOCK_HZ = 1_000_000_000  # the guest's clock is CLOCK_MONOTONIC, in ns
LONGEST = (1 << 63) - 1


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


class GuestState:
    """The place of a vCPU in its pattern: a `struct guest_dirty_state`."""

    name = "guest"

    def __init__(self, engine: Engine, index: int) -> None:
        self._engine = engine
        self._index = index

    def save(self) -> str:
        """Return the structure's bytes."""
        return encode(self._bytes(self._engine.soft_state(self._index)))

    def parse(self, value: object) -> bytes:
        """Return the structure's bytes."""
        return decode_structure(value, ffi.sizeof("struct guest_dirty_state"))

    def load(self, value: bytes) -> None:
        """Set the structure."""
        state = self._engine.soft_state(self._index)
        self._bytes(state)[:] = value
        self._engine.soft_set_state(self._index, state)

    @staticmethod
    def _bytes(state: Any) -> Any:
        return ffi.buffer(ffi.addressof(state, "guest"))


class Lateness:
    """The time that has passed since the next store of a paced vCPU was due, in ns.

    It goes on while the state travels, as while a machine is stopped.
    """

    name = "lateness"

    def __init__(self, engine: Engine, index: int, realtime: Realtime) -> None:
        self._engine = engine
        self._index = index
        self._realtime = realtime

    def save(self) -> int:
        """Return the lateness; negative before the store is due."""
        return time.monotonic_ns() - int(self._engine.soft_state(self._index).deadline)

    def parse(self, value: object) -> int:
        """Return `value`, an integer."""
        return check_number(value, -LONGEST, LONGEST)

    def load(self, value: int) -> None:
        """Set the time at which the store is due."""
        state = self._engine.soft_state(self._index)
        state.deadline = max(0, time.monotonic_ns() - value - self._realtime.elapsed)
        self._engine.soft_set_state(self._index, state)


class SoftAccelerator:
    """Runs the guest `dirty` as C threads (see `native/soft.c`)."""

    name = "soft"

    def __init__(self, ram: Ram, options: AccelOptions) -> None:
        self.dirty_ring_size = options.dirty_ring_size
        self.clock_hz = CLOCK_HZ
        self.engine = Engine(ram, -1, options.reaper, options.dirty_limit)
        self.statistics: Statistics | None = None
        self._state = State([], [])
        self._first: dict[str, Any] = {}  # the initial state

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Create `count` vCPUs, each at its entry of `guest`.

        Raises:
            AcceleratorError: The guest is a program for a PC.
            OSError: A vCPU cannot be added.
        """
        for index in range(count):
            self.engine.add_soft_vcpu(self._control(guest, index), self.dirty_ring_size)
        self.statistics = Statistics(
            "__org.qmpserver_soft",
            MachineStats(self.engine),
            [VcpuStats(self.engine, index) for index in range(count)],
        )
        realtime = Realtime()
        self._state = State(
            [realtime],
            [
                [
                    GuestState(self.engine, index),
                    Lateness(self.engine, index, realtime),
                    Thread(self.engine, index),
                ]
                for index in range(count)
            ],
        )
        self._first = self.save_state()

    def _control(self, guest: Guest, index: int) -> int:
        """Return the address of the control block of a vCPU's guest."""
        entry = guest.entry(index)
        if not isinstance(entry, DirtyEntry):
            raise AcceleratorError(
                "accelerator soft runs the guest 'dirty' and no other program; leave -bios, -drive "
                "and -guest out, or use -accel kvm"
            )
        return entry.rdi

    def save_state(self) -> dict[str, Any]:
        """Return the state of the vCPUs; all must have stopped."""
        return self._state.save()

    def load_state(self, state: object) -> None:
        """Load a result of `save_state`; all vCPUs must have stopped.

        Raises:
            ValueError: The state does not fit; nothing has changed.
        """
        self._state.load(state)

    def read_clock(self) -> int:
        """Return the guest's clock."""
        return time.monotonic_ns()

    def reset_vcpus(self) -> None:
        """Restart every vCPU at its guest's entry; all must have stopped."""
        self.load_state(self._first)

    def get_dirty_log(self) -> bytearray:
        """Return and clear the log of dirty pages. Blocks; any thread may call it."""
        return self.engine.soft_take_log()

    def close(self) -> None:
        """End all threads and free everything."""
        self.engine.close()


class QtestAccelerator(SoftAccelerator):
    """Has vCPUs that execute nothing, as QEMU's accelerator for tests; whatever the guest is."""

    name = "qtest"

    def _control(self, guest: Guest, index: int) -> int:
        return int(lib.NO_GUEST)
