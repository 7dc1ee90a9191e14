"""Who executes vCPUs: ``kvm``, or ``soft`` where there is none.

An accelerator makes the VM and its vCPUs and owns the `Engine` whose native threads run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from qmpserver.vm.accel.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.engine import Engine
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.stats import Statistics

__all__ = [
    "AccelOptions",
    "Accelerator",
    "AcceleratorError",
    "Controller",
    "Entry",
    "Guest",
    "ReaperMode",
    "open_accelerator",
]

NAMES = ("kvm", "soft")
ReaperMode = Literal["event", "poll"]
Controller = Literal["pacer", "qemu"]
SOFT_RING_RESERVED = 64


@dataclass(frozen=True, slots=True)
class AccelOptions:
    """What ``-accel`` asks for. `dirty_ring_size` is in entries; 0 is no ring."""

    name: str
    dirty_ring_size: int = 0
    reaper: ReaperMode = "event"
    dirty_limit: Controller = "pacer"

    def __post_init__(self) -> None:
        """Raise AcceleratorError, in QEMU's words where it has them."""
        if self.name not in NAMES:
            raise AcceleratorError(f"invalid accelerator {self.name}")
        size = self.dirty_ring_size
        if size & (size - 1):
            raise AcceleratorError("dirty-ring-size must be a power of two.")
        if self.name == "soft" and size and not 2 * SOFT_RING_RESERVED <= size <= 65536:
            raise AcceleratorError(
                f"dirty ring size {size} is not possible: a power of two from "
                f"{2 * SOFT_RING_RESERVED} to 65536 is"
            )


class Entry(NamedTuple):
    """Where a vCPU starts, in 64-bit mode at CPL 3."""

    rip: int
    rdi: int
    cr3: int


class Guest(Protocol):
    """What vCPUs run. With a `rom` they start as a PC's processors do, and have no entries."""

    rom: bytes

    def load(self) -> range:
        """Write it to RAM, in its first state; return the pages written to."""

    def entry(self, cpu_index: int) -> Entry | None:
        """Return where a vCPU starts."""


class Accelerator(Protocol):
    """A VM whose vCPUs the engine's threads run."""

    name: str
    dirty_ring_size: int
    clock_hz: int
    engine: Engine
    statistics: Statistics | None  # once there are vCPUs; None where the kernel keeps none

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Make `count` vCPUs, each at its entry of `guest`."""

    def reset_vcpus(self) -> None:
        """Have every vCPU begin anew, at its guest's entry. All must have stopped."""

    def get_dirty_log(self) -> bytearray:
        """Take the pages logged since the last call: a bit each, lowest first.

        Only where there are no rings, and logging is on. Blocks. Any thread.
        """

    def close(self) -> None:
        """End all threads and free everything."""


def open_accelerator(ram: Ram, choices: Sequence[AccelOptions]) -> tuple[Accelerator, list[str]]:
    """Open the first of `choices` that works here; also say why those before it did not.

    Raises:
        AcceleratorError: None works; the text is the last one's reason.
    """
    refused: list[str] = []
    for options in choices:
        try:
            if options.name == "kvm":
                from qmpserver.vm.accel.kvm import KvmAccelerator

                return KvmAccelerator(ram, options), refused
            from qmpserver.vm.accel.soft import SoftAccelerator

            return SoftAccelerator(ram, options), refused
        except AcceleratorError as error:
            refused.append(f"failed to initialize {options.name}: {error}")
    raise AcceleratorError(refused[-1])
