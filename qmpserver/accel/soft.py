"""The software accelerator: native threads that dirty real memory, by KVM's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.accel.engine import Engine

if TYPE_CHECKING:
    from qmpserver.accel import AccelOptions
    from qmpserver.machine.guest import DirtyGuest
    from qmpserver.machine.memory import Ram

CLOCK_HZ = 1_000_000_000  # its guests' clock is CLOCK_MONOTONIC


class SoftAccelerator:
    """Runs the guest `dirty` as C threads (see ``native/soft.c``)."""

    name = "soft"

    def __init__(self, ram: Ram, options: AccelOptions) -> None:
        self.dirty_ring_size = options.dirty_ring_size
        self.clock_hz = CLOCK_HZ
        self.engine = Engine(ram, -1, options.reaper)

    def add_vcpus(self, guest: DirtyGuest, count: int) -> None:
        """Make `count` vCPUs, each at its entry of `guest`."""
        for index in range(count):
            self.engine.add_soft_vcpu(guest.entry(index).rdi, self.dirty_ring_size)

    def log_dirty_pages(self, on: bool) -> None:
        """Switch logging. Blocks for the end of stores under way. Any thread."""
        self.engine.soft_set_tracking(on)

    def get_dirty_log(self) -> bytearray:
        """Take the log of dirty pages. Blocks. Any thread."""
        return self.engine.soft_take_log()

    def close(self) -> None:
        """End all threads and free everything."""
        self.engine.close()
