"""The dirty limit as commands use it; native code (`limit.c`, `pacer.h`) throttles the vCPUs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.dirty.tracking import Tracking


class DirtyLimitError(ValueError):
    """A request is refused; the text is QEMU's."""


class VcpuLimit(NamedTuple):
    """A limited vCPU: its limit, and its dirty rate over the last second, in MB/s."""

    cpu_index: int
    limit_rate: int
    current_rate: int


class DirtyLimit:
    """Limits how fast vCPUs dirty memory. Belongs to the event loop's thread.

    No method waits. A limit begins when dirty logging is on; the vCPU is held until then. A cancel
    is in force when the call returns; the vCPUs that it releases are woken in the loop's next
    iteration.
    """

    def __init__(self, accel: Accelerator, tracking: Tracking) -> None:
        self._accel = accel
        self._tracking = tracking
        tracking.on_failure = self.cancel  # otherwise the vCPUs would be held for ever

    def _check_index(self, cpu_index: int | None) -> None:
        if cpu_index is not None and not 0 <= cpu_index < self._accel.engine.vcpus:
            raise DirtyLimitError("incorrect cpu index specified")

    def _kick_soon(self, cpu_index: int | None) -> None:
        """Kick in the loop's next iteration, after the client's reply is sent (see `limit.c`)."""
        asyncio.get_running_loop().call_soon(self._accel.engine.limit_kick, cpu_index)

    def set(self, dirty_rate: int, cpu_index: int | None = None) -> None:
        """Limit one vCPU, or all, to `dirty_rate` MB/s (a MB is 2^20 bytes); 0 cancels.

        Raises:
            DirtyLimitError: The machine has no dirty ring, or no such vCPU.
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
        """Cancel the limit of one vCPU, or of all; a no-op if there is none.

        Raises:
            DirtyLimitError: The machine has no such vCPU.
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
        """Return the limited vCPUs."""
        if not self._accel.engine.limit_in_service:
            return []
        pairs = zip(self._accel.engine.limits(), self._tracking.rates.now(), strict=True)
        return [VcpuLimit(index, limit, rate) for index, (limit, rate) in enumerate(pairs) if limit]
