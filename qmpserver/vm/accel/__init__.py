"""Accelerators: `kvm` runs vCPUs in hardware, `soft` emulates them, `qtest` runs none.

An accelerator creates the VM and its vCPUs and owns the `Engine` whose native threads run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qmpserver.vm.accel.entry import BootSectorEntry, DirtyEntry, Entry, Guest
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
    "BootSectorEntry",
    "Controller",
    "DirtyEntry",
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
        clock_hz: The frequency of the guest's clock, in Hz.
        engine: The native engine.
        statistics: The statistics; None before the vCPUs are added, or if the kernel has none.
    """

    name: str
    dirty_ring_size: int
    clock_hz: int
    engine: Engine
    statistics: Statistics | None

    def add_vcpus(self, guest: Guest, count: int) -> None:
        """Create `count` vCPUs, each at its entry of `guest`.

        Raises:
            AcceleratorError: The accelerator cannot run that guest or that number of vCPUs.
            OSError: The kernel refused a vCPU.
        """

    def read_clock(self) -> int:
        """Return the guest's clock; 0 before the vCPUs are added. All must have stopped."""

    def reset_vcpus(self) -> None:
        """Restart every vCPU at its guest's entry; all must have stopped."""

    def save_state(self) -> dict[str, Any]:
        """Return the state of the VM and its vCPUs, as `state` has it; all must have stopped.

        Blocks for about 0.1 ms a vCPU. Any thread may call it, or `load_state`, one at a time.

        Raises:
            OSError: The kernel refused to tell a component.
        """

    def load_state(self, state: object) -> None:
        """Load a result of `save_state`, also of another process; all vCPUs must have stopped.

        Blocks for about 0.3 ms a vCPU. It does not start vCPUs: `Engine.cont` does.

        Raises:
            ValueError: The state does not fit; the text names the component and the vCPU, and says
                what is expected. Nothing has changed.
        """

    def get_dirty_log(self) -> bytearray:
        """Return the pages logged since the last call: one bit a page, lowest first.

        Only without rings, while dirty pages are logged. Blocks; any thread may call it.
        """

    def close(self) -> None:
        """End all threads and free everything."""


def open_accelerator(ram: Ram, choices: Sequence[AccelOptions]) -> tuple[Accelerator, list[str]]:
    """Open the first accelerator that works; also return a message for each that failed before it.

    Raises:
        AcceleratorError: No accelerator works; the text is the message of the last one.
    """
    refused: list[str] = []
    for options in choices:
        try:
            if options.name == "kvm":
                from qmpserver.vm.accel.kvm import KvmAccelerator

                return KvmAccelerator(ram, options), refused
            from qmpserver.vm.accel.soft import QtestAccelerator, SoftAccelerator

            kind = QtestAccelerator if options.name == "qtest" else SoftAccelerator
            return kind(ram, options), refused
        except AcceleratorError as error:
            refused.append(f"failed to initialize {options.name}: {error}")
    raise AcceleratorError(refused[-1])
