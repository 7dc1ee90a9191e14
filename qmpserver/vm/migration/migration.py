"""A machine's migrations as commands use them: one at a time, out or in.

The steps of a migration are in `source.py` and `destination.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from qmpserver.migration.address import check_transport
from qmpserver.migration.capabilities import IN_PROGRESS, Capabilities
from qmpserver.migration.extensions import LATE, TOTAL_TIME
from qmpserver.migration.info import Figures, destination_info, source_info
from qmpserver.migration.parameters import Parameters
from qmpserver.migration.policies.forecast import Forecast, forecast
from qmpserver.migration.status import STATUSES, UNDER_WAY, Status
from qmpserver.migration.wire import StreamError, reason
from qmpserver.monitor import DeviceError
from qmpserver.qmp import CommandError
from qmpserver.vm.dirty.worker import Worker
from qmpserver.vm.migration.destination import Destination
from qmpserver.vm.migration.rounds import OVERHEAD_S
from qmpserver.vm.migration.source import Source
from qmpserver.vm.trace.events import EVENTS, record

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from qmpserver.migration.address import Address
    from qmpserver.monitor.fds import Passed
    from qmpserver.vm.migration.movable import Movable

log = logging.getLogger(__name__)

FORECAST_S = 0.5  # of measuring
FAILURES = (OSError, StreamError, DeviceError, CommandError, ValueError)


class Migration:
    """The migration of a machine's guest. Belongs to the event loop's thread.

    Args:
        machine: The machine.

    Attributes:
        capabilities: The capabilities; `set_capabilities` changes them.
        parameters: The parameters; `set_parameters` changes them.
        status: The status of the last migration.
    """

    def __init__(self, machine: Movable) -> None:
        self.capabilities = Capabilities()
        self.parameters = Parameters({TOTAL_TIME: 0})
        self.status: Status = "none"
        self._machine = machine
        self._figures = Figures()
        self._error = ""
        self._source: Source | None = None
        self._destination: Destination | None = None  # the incoming migration, also one that ended
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False  # the task
        self._started = self._ended = 0.0
        self._worker = Worker("migration")

    @property
    def under_way(self) -> bool:
        """Whether a migration is going on."""
        return self.status in UNDER_WAY

    def set_capabilities(self, values: dict[str, bool]) -> None:
        """Change capabilities.

        Raises:
            CommandError: A change is refused, and none is made; the text is QEMU's.
        """
        ring = bool(self._machine.accel.dirty_ring_size)
        if self.parameters[TOTAL_TIME]:
            _check_promise(values, ring=ring)
        self.capabilities.set(
            values,
            ring=ring,
            under_way=self._source is not None,
            awaited=self._destination is not None and self._machine.state == "inmigrate",
            plain=self.parameters.plain,
        )

    def set_parameters(self, values: dict[str, Any]) -> None:
        """Change parameters; bandwidth and downtime act on a migration under way.

        Raises:
            CommandError: A value is out of range, and none is changed; the text is QEMU's.
        """
        if values.get(TOTAL_TIME):
            _check_promise(self.capabilities, ring=bool(self._machine.accel.dirty_ring_size))
        self.parameters.set(values, capabilities=self.capabilities)
        if self._source is not None:
            self._source.set_bandwidth()

    def start(self, address: Address, passed: Passed, *, resume: bool = False) -> None:
        """Begin to move the guest to `address`, and return; `status` tells how it goes.

        Args:
            address: Where to move it.
            passed: The descriptors that were passed to this program.
            resume: Continue a paused migration, which there never is.

        Raises:
            CommandError: It is refused; the text is QEMU's.
        """
        check_transport(address, self.capabilities)
        if resume:
            raise CommandError("Cannot resume if there is no paused migration")
        if self._source is not None:
            raise CommandError(IN_PROGRESS)
        if self._machine.state == "inmigrate":
            raise CommandError("Guest is waiting for an incoming migration")
        if self._machine.state == "postmigrate":
            raise CommandError("Can't migrate the vm that was paused due to previous migration")
        self._destination = None
        figures = self._begin()
        source = self._source = Source(
            self._machine,
            self.capabilities,
            self.parameters,
            figures,
            self._worker,
            self._enter,
            self._emit_pass,
            self._emit_late,
        )
        self._spawn(self._move_out(source, source.run(address, passed)))

    def check_awaited(self) -> None:
        """Check that an incoming migration can be awaited.

        Raises:
            CommandError: It cannot; the text is QEMU's.
        """
        if self._machine.state != "inmigrate" and self._destination is None:
            raise CommandError("'-incoming' was not specified on the command line")
        if self._destination is not None:
            raise CommandError("The incoming migration has already been started")

    async def incoming(
        self, address: Address, passed: Passed, *, exit_on_error: bool = True
    ) -> None:
        """Wait for a guest at `address`; return when a source can connect.

        Args:
            address: Where to wait.
            passed: The descriptors that were passed to this program.
            exit_on_error: Have the machine fail if the migration does.

        Raises:
            CommandError: It is refused; the text is QEMU's.
            DeviceError: Nothing can listen there.
        """
        self.check_awaited()
        check_transport(address, self.capabilities)
        destination = Destination(self._machine, self._worker, self._enter)
        self._destination = destination
        try:
            await destination.listen(address)
        except BaseException:
            self._destination = None
            raise
        self._begin()
        self._spawn(self._move_in(destination.run(passed), exit_on_error))

    def cancel(self) -> None:
        """Cancel the outgoing migration, if there is one and the destination has not taken over."""
        if self._source is None or self._source.committed or self.status == "cancelling":
            return
        self._enter("cancelling")
        assert self._task is not None
        self._cancel(self._task)

    def continue_(self, state: Status) -> None:
        """Go on after the pause before the switchover.

        Raises:
            CommandError: The status is not `state`; the text is QEMU's.
        """
        if self.status != state:
            raise CommandError(f"Migration not in expected state: {self.status}")
        if self._source is not None and state == "pre-switchover":
            self._source.continue_()

    @property
    def limits_vcpus(self) -> bool:
        """Whether a migration limits the guest's vCPUs now."""
        return self._source is not None and self._source.limits_vcpus

    def info(self) -> dict[str, Any]:
        """Return the result of `query-migrate`."""
        if self._source is not None:
            self._source.count()
        if self._destination is not None:
            addresses = self._destination.addresses()
            return destination_info(self.status, addresses=addresses, error=self._error)
        end = time.monotonic() if self.under_way else self._ended
        self._figures.total_time = round((end - self._started) * 1000)
        return source_info(self._figures, self.status, error=self._error)

    def _begin(self) -> Figures:
        self._figures = Figures(self._machine.ram.size)
        self._error = ""
        self._started = time.monotonic()
        self._enter("setup")
        return self._figures

    def _enter(self, status: Status) -> None:
        log.info("migration: %s%s", status, self._error and f": {self._error}")
        self.status = status
        record(EVENTS["migrate_set_state"], STATUSES.index(status))
        if not self.under_way:
            self._ended = time.monotonic()
        if self.capabilities["events"]:
            self._machine.emit("MIGRATION", {"status": status})

    def _emit_pass(self, number: int) -> None:
        if self.capabilities["events"]:
            self._machine.emit("MIGRATION_PASS", {"pass": number})

    def _emit_late(self, expected: float) -> None:
        promised = self.parameters[TOTAL_TIME]
        log.warning("migration: %d ms were promised, %.0f are expected", promised, expected * 1000)
        data = {"promised": promised}
        if expected < math.inf:
            data["expected"] = round(expected * 1000)
        self._machine.emit(LATE, data)

    async def forecast(self, bandwidth: int | None = None) -> Forecast:
        """Return how a migration with these parameters would go; it takes half a second.

        Args:
            bandwidth: Of the link, in bytes/s; by default `max-bandwidth`.

        Raises:
            CommandError: The bandwidth is not known.
            OSError: Dirty pages cannot be logged.
        """
        bandwidth = bandwidth or self.parameters["max-bandwidth"]
        if not bandwidth:
            raise CommandError("Parameter 'bandwidth' is missing, and max-bandwidth is unlimited")
        tracking, user = self._machine.tracking, object()
        tracking.acquire(user)
        try:
            await tracking.wait()
            await asyncio.sleep(FORECAST_S)
            rates = tracking.rates.bytes_per_second()
        finally:
            tracking.release(user)
        return forecast(
            data=self._machine.ram.used,
            bandwidth=bandwidth,
            rates=rates,
            downtime_limit=self.parameters["downtime-limit"] / 1000,
            total_time=self.parameters[TOTAL_TIME] / 1000,
            overhead=OVERHEAD_S,
        )

    def _spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        self._has_begun = False
        self._task = asyncio.get_running_loop().create_task(steps)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel the task, but not before its first step: it would handle and release nothing."""
        if self._has_begun:
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    async def _move_out(self, source: Source, steps: Coroutine[Any, Any, None]) -> None:
        self._has_begun = True
        try:
            await steps
        except asyncio.CancelledError:
            self._enter("cancelled")
        except Exception as error:  # a bug must not leave it under way for ever
            self._error = _failure(error)
            self._enter("failing")
            self._enter("failed")
        else:
            seconds = time.monotonic() - self._started
            self._figures.mbps = self._figures.transferred * 8 / 1e6 / seconds  # of all of it
            self._enter("completed")
        finally:
            self._source = None

    async def _move_in(self, steps: Coroutine[Any, Any, None], exit_on_error: bool) -> None:
        self._has_begun = True
        try:
            await steps
        except Exception as error:  # a bug must not leave it under way for ever
            self._error = _failure(error)
            self._enter("failed")
            if exit_on_error:
                self._machine.fail(f"load of migration failed: {self._error}")
        else:
            self._enter("completed")

    async def close(self) -> None:
        """End a migration that is going on."""
        if self._task is not None:
            self._cancel(self._task)
            await asyncio.wait([self._task])
        await self._worker.close()


def _check_promise(capabilities: Mapping[str, bool], *, ring: bool) -> None:
    """Check that a promise can slow the vCPUs, and is alone in doing so.

    Raises:
        CommandError: The accelerator has no dirty rings, or such a capability is on.
    """
    if not ring:
        raise CommandError(f"{TOTAL_TIME} requires accelerator property 'dirty-ring-size' set")
    for name in ("auto-converge", "dirty-limit"):
        if capabilities.get(name):
            raise CommandError(f"{TOTAL_TIME} conflicts with {name}")


def _failure(error: Exception) -> str:
    """Return the reason of a failure; a bug is logged with its traceback."""
    if isinstance(error, FAILURES):
        return reason(error)
    log.critical("migration: internal error", exc_info=error)
    return f"internal error: {type(error).__name__}: {error}"
