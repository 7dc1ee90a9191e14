"""Accelerators: `kvm` runs vCPUs in hardware, `soft` emulates them where there is no KVM.

An accelerator creates the VM and its vCPUs and owns the `Engine` whose native threads run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qmpserver.vm.accel.entry import Entry, Guest
from qmpserver.vm.accel.errors import AcceleratorError
from qmpserver.vm.accel.options import NAMES, AccelOptions, Controller, ReaperMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.engine import Engine
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.accel.stats import Statistics

__all__ = [
    "NAMES",
    "AccelOptions",
    "Accelerator",
    "AcceleratorError",
    "Controller",
    "Entry",
    "Guest",
    "ReaperMode",
    "open_accelerator",
]


class Accelerator(Protocol):
    """A VM whose vCPUs the engine's threads run.

    Attributes:
        name: The name that `-accel` takes.
        dirty_ring_size: In entries; 0 for no ring.
        clock_hz: The frequency of the guest's clock.
        engine: The native engine.
        statistics: The kernel's statistics, once there are vCPUs; None if it keeps none.
    """

    name: str
    dirty_ring_size: int
    clock_hz: int
    engine: Engine
    statistics: Statistics | None

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Create `count` vCPUs, each at its entry of `guest`."""

    def reset_vcpus(self) -> None:
        """Restart every vCPU at its guest's entry; all must have stopped."""

    def get_dirty_log(self) -> bytearray:
        """Return the pages logged since the last call, a bit each, the lowest first.

        For an accelerator without rings, while logging is on. Blocks; any thread may call it.
        """

    def close(self) -> None:
        """End all threads and free everything."""


def open_accelerator(ram: Ram, choices: Sequence[AccelOptions]) -> tuple[Accelerator, list[str]]:
    """Open the first of `choices` that works here; also return why those before it did not.

    Raises:
        AcceleratorError: None of them works; the text is the reason of the last one.
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
