"""The validated options of an accelerator; this module does not need the native engine."""

from __future__ import annotations

from typing import Literal

from qmpserver.vm.accel.errors import AcceleratorError

NAMES = ("kvm", "soft", "qtest")
ReaperMode = Literal["event", "poll"]
Controller = Literal["pacer", "qemu"]
SOFT_RING_RESERVED = 64


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

    def __init__(
        self,
        name: str,
        dirty_ring_size: int = 0,
        reaper: ReaperMode = "event",
        dirty_limit: Controller = "pacer",
    ) -> None:
        if name not in NAMES:
            raise AcceleratorError(f"invalid accelerator {name}")
        if dirty_ring_size & (dirty_ring_size - 1):
            raise AcceleratorError("dirty-ring-size must be a power of two.")
        least = 2 * SOFT_RING_RESERVED
        if name != "kvm" and dirty_ring_size and not least <= dirty_ring_size <= 65536:
            raise AcceleratorError(
                f"invalid dirty ring size {dirty_ring_size}; expected a power of two from "
                f"{least} to 65536"
            )
        self.name = name
        self.dirty_ring_size = dirty_ring_size
        self.reaper: ReaperMode = reaper
        self.dirty_limit: Controller = dirty_limit
