"""The dirty limit as the commands see it; the native side (limit.c, pacer.h) does the limiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.dirty.tracking import Tracking


class DirtyLimitError(ValueError):
    """Refused; the text is QEMU's."""


@dataclass(frozen=True, slots=True)
class VcpuLimit:
    """A limited vCPU: its limit, and what it dirtied in the last second, in MB/s."""

    cpu_index: int
    limit_rate: int
    current_rate: int


class DirtyLimit:
    """Limits how fast vCPUs dirty memory. Belongs to the event loop's thread.

    Nothing here waits: a limit begins when the log is on, and until then the vCPU is held; a
    cancel is in force when the call returns, and who it releases is woken in the loop's next round.
    """

    def __init__(self, accel: Accelerator, tracking: Tracking) -> None:
        self._accel = accel
        self._tracking = tracking
        tracking.on_failure = self.cancel  # or the vCPUs would be held for ever

    def _check_index(self, cpu_index: int | None) -> None:
        if cpu_index is not None and not 0 <= cpu_index < self._accel.engine.vcpus:
            raise DirtyLimitError("incorrect cpu index specified")

    def _kick_soon(self, cpu_index: int | None) -> None:
        """Kick in the loop's next round, when the client's answer has been sent (see limit.c)."""
        asyncio.get_running_loop().call_soon(self._accel.engine.limit_kick, cpu_index)

    def set(self, dirty_rate: int, cpu_index: int | None = None) -> None:
        """Limit one vCPU, or all, to `dirty_rate` MB/s (2^20 bytes); 0 cancels.

        Raises:
            DirtyLimitError: There is no dirty ring, or no such vCPU.
        """
        if not self._accel.dirty_ring_size:
            raise DirtyLimitError(
                "dirty page limit feature requires KVM with accelerator property "
                "'dirty-ring-size' set'"
            )
        self._check_index(cpu_index)
        if not dirty_rate:
            self.cancel(cpu_index)
            return
        self._accel.engine.limit_set(cpu_index, dirty_rate)
        self._kick_soon(cpu_index)
        self._tracking.acquire(self)

    def cancel(self, cpu_index: int | None = None) -> None:
        """End the limit of one vCPU, or of all; without one, nothing happens.

        Raises:
            DirtyLimitError: No such vCPU.
        """
        if not self._accel.dirty_ring_size:
            return
        self._check_index(cpu_index)
        if not self._accel.engine.limit_in_service:
            return
        self._accel.engine.limit_cancel(cpu_index)
        self._kick_soon(cpu_index)
        if not self._accel.engine.limit_in_service:
            self._tracking.release(self)

    def query(self) -> list[VcpuLimit]:
        """Return the vCPUs that are limited."""
        if not self._accel.engine.limit_in_service:
            return []
        pairs = zip(self._accel.engine.limits(), self._tracking.rates.now(), strict=True)
        return [VcpuLimit(index, limit, rate) for index, (limit, rate) in enumerate(pairs) if limit]
