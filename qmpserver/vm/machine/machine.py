"""The machine: RAM, an accelerator's vCPUs, a guest program, and their run state."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from qmpserver.vm.accel.engine import VcpuState
from qmpserver.vm.dirty.limit import DirtyLimit
from qmpserver.vm.dirty.measurement import DirtyRate
from qmpserver.vm.dirty.tracking import Tracking
from qmpserver.vm.dirty.worker import Worker
from qmpserver.vm.machine.options import NO_UUID
from qmpserver.vm.machine.runstate import NEEDS_RESET, Actions, RunState
from qmpserver.vm.migration.migration import Migration
from qmpserver.vm.trace.tracer import Tracer
from qmpserver.vm.trace.writers import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.vm.accel import Accelerator, Guest
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.machine.serial import SerialPort
    from qmpserver.vm.trace.tracer import Writer

log = logging.getLogger(__name__)

STOPPED = (VcpuState.PARKED, VcpuState.HALTED, VcpuState.FAILED)


class Machine:
    """A virtual machine. All methods belong to the event loop's thread.

    Trace events go to `trace`, or to standard error.

    Attributes:
        emit: Called with each event's name and data; set it before `start`.
        finished: Set when the machine has been shut down and the program should end.
        uuid: In lower case.
        failure: The reason if the program should end with a failure.
        state: The run state.
        changing: Held by each change of the run state; whoever holds it sees none.
        autostart: Whether the guest runs as soon as an incoming migration has loaded it.
        objects: Those that the user has created: the type and the properties, by id.
        serial: The first serial port; set it before `start`, which the machine closes then.
    """

    def __init__(
        self,
        ram: Ram,
        accel: Accelerator,
        guest: Guest,
        *,
        name: str | None = None,
        uuid: str = NO_UUID,
        actions: Actions | None = None,
        trace: Writer | None = None,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.actions = actions or Actions()
        self.ram = ram
        self.accel = accel
        self.guest = guest
        self.emit: Callable[[str, dict[str, Any] | None], None] = lambda _event, _data: None
        self.finished = asyncio.Event()
        self.failure: str | None = None
        self.state: RunState = "prelaunch"
        self.autostart = True
        self.tracer = Tracer(trace or LineWriter(sys.stderr))
        self._worker = Worker("accelerator")
        self.tracking = Tracking(accel, self._worker)
        self.dirty_limit = DirtyLimit(accel, self.tracking)
        self.dirty_rate = DirtyRate(ram, accel, self.tracking)
        self.migration = Migration(self)
        self._moved = asyncio.Event()
        self._overflows = 0
        self._guest_reset: asyncio.Task[None] | None = None
        self.changing = asyncio.Lock()
        self.serial: SerialPort | None = None
        self.objects: Mapping[str, tuple[str, Mapping[str, object]]] = {}

    @property
    def running(self) -> bool:
        """Whether the guest may execute."""
        return self.state == "running"

    def start(self, *, stopped: bool = False, incoming: bool = False) -> None:
        """Start the vCPUs.

        Args:
            stopped: Leave the machine in prelaunch until `cont`.
            incoming: Leave it in inmigrate until a migration has loaded a guest.
        """
        engine = self.accel.engine
        asyncio.get_running_loop().add_reader(engine.notify_fd, self._notified)
        self.autostart = not stopped
        if incoming:
            self.state = "inmigrate"
        elif not stopped:
            self.state = "running"
        engine.start(stopped=not self.running)  # a client may have sent `cont` already

    def _notified(self) -> None:
        """Handle a vCPU that parked, halted or failed, or whose ring overflowed."""
        engine = self.accel.engine
        os.eventfd_read(engine.notify_fd)
        if engine.overflows != self._overflows:
            self._overflows = engine.overflows
            log.warning("a dirty ring overflowed: all memory counts as dirty")
        self._moved.set()
        self._handle_failures()

    def _handle_failures(self) -> None:
        """Reset the machine after a triple fault, as a PC does; stop it after any other failure."""
        engine = self.accel.engine
        if not self.running or self.finished.is_set() or not engine.count(VcpuState.FAILED):
            return
        if not engine.shut_down:
            self.state = "internal-error"
            engine.stop()
            self.emit("STOP", None)
        elif self._guest_reset is None:
            self._guest_reset = asyncio.get_running_loop().create_task(self._reset_by_guest())

    async def _reset_by_guest(self) -> None:
        try:
            await self._reset("guest-reset", guest=True)
        finally:
            self._guest_reset = None
        self._handle_failures()  # the guest may have failed again already

    async def _wait_stopped(self) -> None:
        """Stop all vCPUs and wait until none executes guest code."""
        engine = self.accel.engine
        engine.stop()
        while sum(engine.count(state) for state in STOPPED) < engine.vcpus:
            self._moved.clear()
            await self._moved.wait()

    async def _stop(self, state: RunState) -> None:
        was_running = self.running
        if was_running:
            self.state = state
        await self._wait_stopped()  # after a failure, other vCPUs than that may still run
        if was_running:
            self.emit("STOP", None)

    async def stop(self) -> None:
        """Stop all vCPUs; returns when none executes guest code.

        In inmigrate the guest is left paused when it was loaded.
        """
        async with self.changing:
            if self.state == "inmigrate":
                self.autostart = False
            await self._stop("paused")

    async def cont(self) -> None:
        """Resume the vCPUs; waits for a stop in progress.

        In inmigrate the guest runs when it was loaded.

        Raises:
            RuntimeError: The machine must be reset first, or its guest is about to run elsewhere;
                the text is QEMU's.
        """
        self._check_migrated()  # who waits for the lock would find it finished, and run the guest
        async with self.changing:
            if self.running:
                return
            if self.state in NEEDS_RESET:
                raise RuntimeError("Resetting the Virtual Machine is required")
            self._check_migrated()
            if self.state == "inmigrate":
                self.autostart = True
                return
            self._run()

    def _check_migrated(self) -> None:
        if self.state == "finish-migrate":
            raise RuntimeError("Migration is not finalized yet")

    def _run(self) -> None:
        self.state = "running"
        self.emit("RESUME", None)
        self.accel.engine.cont()
        self._handle_failures()  # a vCPU may have failed while it was being stopped

    async def stop_to_migrate(self) -> RunState:
        """Stop all vCPUs for the end of a migration; return the run state from before.

        The machine stays in finish-migrate until `leave_finish_migrate`.
        """
        async with self.changing:
            before = self.state
            await self._stop("finish-migrate")
            self.state = "finish-migrate"
            return before

    def leave_finish_migrate(self, state: RunState) -> None:
        """Enter `state`: postmigrate, or the state from before a migration that failed."""
        if self.state != "finish-migrate":
            return  # a client has reset the machine
        if state == "running":
            self._run()
        else:
            self.state = state

    def leave_inmigrate(self, source: RunState) -> None:
        """Run the guest that was loaded, unless it was stopped at the source or is to be here."""
        if source != "running":
            self.state = source
        elif self.autostart:
            self._run()
        else:
            self.state = "paused"

    async def reset(self) -> None:
        """Reset the machine at a client's request; RAM keeps the guest's data.

        As in QEMU, a machine that is not running is in prelaunch afterwards.
        """
        await self._reset("host-qmp-system-reset", guest=False)

    async def _reset(self, reason: str, *, guest: bool) -> None:
        async with self.changing:
            if guest and not self.accel.engine.shut_down:
                return  # a client has reset the machine meanwhile
            if self.actions.reboot == "shutdown":
                await self._shut_down(reason, guest=guest)
                return
            if self.state == "inmigrate":  # there is no guest yet; loading one would mix two
                self.emit("RESET", {"guest": guest, "reason": reason})
                return
            await self._wait_stopped()
            if not self.running and self.state != "finish-migrate":
                self.state = "prelaunch"
            self.accel.reset_vcpus()
            written = self.guest.load()  # after it: a guest may be told the time of its clock
            self.accel.engine.mark_dirty(written)
            self.emit("RESET", {"guest": guest, "reason": reason})
            if self.running:
                self.accel.engine.cont()

    def powerdown(self) -> None:
        """Press the power button, which no guest here reacts to."""
        self.emit("POWERDOWN", None)

    async def _shut_down(self, reason: str, *, guest: bool) -> None:
        """End or stop the machine, as the shutdown action says."""
        if self.actions.shutdown == "poweroff":
            self.shutdown(reason, guest=guest)
        else:
            self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
            await self._stop("shutdown")

    def shutdown(self, reason: str, *, guest: bool = False) -> None:
        """Emit `SHUTDOWN` and set `finished`, once; the waiter for `finished` calls `close`."""
        if self.finished.is_set():
            return
        self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        self.finished.set()

    def fail(self, reason: str) -> None:
        """Set `finished` and `failure`: no guest will ever run here."""
        if not self.finished.is_set():
            self.failure = reason
            self.finished.set()

    async def close(self) -> None:
        """End all threads and free all resources."""
        self.accel.engine.stop()  # running vCPUs would slow down all that follows
        if self._guest_reset is not None:
            self._guest_reset.cancel()
            await asyncio.wait([self._guest_reset])
        await self.migration.close()
        await self.dirty_rate.close()
        await self.tracking.close()
        asyncio.get_running_loop().remove_reader(self.accel.engine.notify_fd)
        self.tracer.close()  # before the threads end: it reads their names
        await self._worker.run(self.accel.close)
        await self._worker.close()
        if self.serial is not None:
            self.serial.close()
        self.ram.close()
