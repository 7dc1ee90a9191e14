"""The machine: RAM, an accelerator's vCPUs, a guest program, and the run state that they are in."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from qmpserver.accel.engine import VcpuState
from qmpserver.dirty.limit import DirtyLimit
from qmpserver.dirty.measurement import DirtyRate
from qmpserver.dirty.tracking import Tracking
from qmpserver.machine.runstate import NEEDS_RESET, RunState
from qmpserver.trace.tracer import Tracer
from qmpserver.trace.writers import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.accel import Accelerator
    from qmpserver.machine.guest import DirtyGuest
    from qmpserver.machine.memory import Ram
    from qmpserver.trace.tracer import Writer


class Machine:
    """A virtual machine. All methods belong to the event loop's thread.

    `emit` is called with each event's name and data; set it before :meth:`start`. `finished` is set
    when the machine has been shut down and the program should end. Trace events go to `trace`, or
    to standard error.
    """

    def __init__(
        self,
        ram: Ram,
        accel: Accelerator,
        guest: DirtyGuest,
        *,
        name: str | None = None,
        trace: Writer | None = None,
    ) -> None:
        self.name = name
        self.ram = ram
        self.accel = accel
        self.guest = guest
        self.emit: Callable[[str, dict[str, Any] | None], None] = lambda _event, _data: None
        self.finished = asyncio.Event()
        self.state: RunState = "prelaunch"
        self.tracer = Tracer(trace or LineWriter(sys.stderr))
        self.tracking = Tracking(accel)
        self.dirty_limit = DirtyLimit(accel, self.tracking)
        self.dirty_rate = DirtyRate(ram, accel, self.tracking)
        self._moved = asyncio.Event()
        self._changing = asyncio.Lock()  # between running and not; monitors may disagree

    @property
    def running(self) -> bool:
        """Whether the guest may execute."""
        return self.state == "running"

    def start(self, *, stopped: bool = False) -> None:
        """Start the vCPUs; `stopped` leaves the machine in prelaunch, for :meth:`cont`."""
        engine = self.accel.engine
        asyncio.get_running_loop().add_reader(engine.notify_fd, self._notified)
        engine.start(stopped=stopped)
        if not stopped:
            self.state = "running"

    def _notified(self) -> None:
        """A vCPU parked, halted or failed."""
        os.eventfd_read(self.accel.engine.notify_fd)
        if self.running and self.accel.engine.count(VcpuState.FAILED):
            self._stop_vcpus("internal-error")
        self._moved.set()

    def _stop_vcpus(self, state: RunState) -> None:
        self.state = state
        self.accel.engine.stop()
        self.emit("STOP", None)

    async def stop(self) -> None:
        """Stop all vCPUs; returns when none executes guest code any more."""
        async with self._changing:
            if not self.running:
                return
            engine = self.accel.engine
            self.state = "paused"
            engine.stop()
            out = (VcpuState.PARKED, VcpuState.HALTED, VcpuState.FAILED)
            while sum(engine.count(state) for state in out) < engine.vcpus:
                self._moved.clear()
                await self._moved.wait()
            self.emit("STOP", None)

    async def cont(self) -> None:
        """Let the vCPUs run; waits for a stop under way.

        Raises:
            RuntimeError: The machine must be reset first; the text is QEMU's.
        """
        async with self._changing:
            if self.running:
                return
            if self.state in NEEDS_RESET:
                raise RuntimeError("Resetting the Virtual Machine is required")
            self.state = "running"
            self.emit("RESUME", None)
            self.accel.engine.cont()

    def shutdown(self, reason: str, *, guest: bool = False) -> None:
        """Announce the end and ask for it, once; who waits for `finished` calls :meth:`close`."""
        if self.finished.is_set():
            return
        self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        self.finished.set()

    async def close(self) -> None:
        """End all threads and give everything back."""
        await self.dirty_rate.close()
        await self.tracking.close()
        asyncio.get_running_loop().remove_reader(self.accel.engine.notify_fd)
        await asyncio.to_thread(self.accel.close)
        self.tracer.close()
        self.ram.close()
