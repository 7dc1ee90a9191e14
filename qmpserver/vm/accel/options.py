"""The validated options of an accelerator; this module does not need the native engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qmpserver.vm.accel.errors import AcceleratorError

NAMES = ("kvm", "soft", "qtest")
ReaperMode = Literal["event", "poll"]
Controller = Literal["pacer", "qemu"]
SOFT_RING_RESERVED = 64


@dataclass(frozen=True, slots=True)
class AccelOptions:
    """The value of `-accel`.

    Attributes:
        name: One of `NAMES`.
        dirty_ring_size: In entries; 0 for no ring.
        reaper: `event` if a kick wakes the reaper, `poll` if it only polls.
        dirty_limit: The controller that throttles vCPUs.

    Raises:
        AcceleratorError: The accelerator or the size of the ring is invalid.
    """

    name: str
    dirty_ring_size: int = 0
    reaper: ReaperMode = "event"
    dirty_limit: Controller = "pacer"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.name not in NAMES:
            raise AcceleratorError(f"invalid accelerator {self.name}")
        size = self.dirty_ring_size
        if size & (size - 1):
            raise AcceleratorError("dirty-ring-size must be a power of two.")
        if self.name != "kvm" and size and not 2 * SOFT_RING_RESERVED <= size <= 65536:
            raise AcceleratorError(
                f"invalid dirty ring size {size}; expected a power of two from "
                f"{2 * SOFT_RING_RESERVED} to 65536"
            )
