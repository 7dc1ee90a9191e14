"""The interface of a machine that a migration moves; the machine itself is in `vm/machine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.dirty.limit import DirtyLimit
    from qmpserver.vm.dirty.tracking import Tracking
    from qmpserver.vm.machine.runstate import RunState


class Movable(Protocol):
    """A machine whose guest can be moved. `Machine` describes its members."""

    uuid: str
    ram: Ram
    accel: Accelerator
    tracking: Tracking
    dirty_limit: DirtyLimit
    changing: asyncio.Lock
    state: RunState
    emit: Callable[[str, dict[str, Any] | None], None]

    async def stop_to_migrate(self) -> RunState:
        """Stop all vCPUs, in finish-migrate; return the run state from before."""

    def leave_finish_migrate(self, state: RunState) -> None:
        """Enter postmigrate, or the state from before."""

    def leave_inmigrate(self, source: RunState) -> None:
        """Run the guest that was loaded, unless it was stopped or is to be."""

    def fail(self, reason: str) -> None:
        """End the program with a failure."""
