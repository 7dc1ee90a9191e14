"""Migration: no data is sent, but the status and the progress change as in a real one.

The contract, with its refusals, is `qmpserver.migration`'s. The names of the capabilities come from
the schema: `query-migrate-capabilities` returns each value of its enumeration. Two of them have an
effect: `events` and `pause-before-switchover`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qmpserver.migration.address import TcpAddress, UnixAddress, check_transport, parse_address
from qmpserver.migration.capabilities import CAPABILITIES, IN_PROGRESS, Capabilities
from qmpserver.migration.info import PAGE, Figures, destination_info, source_info
from qmpserver.migration.parameters import Parameters
from qmpserver.migration.status import OVER, UNDER_WAY
from qmpserver.qapi.model import ArrayType, EnumType, ObjectType
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    from qmpserver.migration.address import Address
    from qmpserver.migration.status import Status
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_SETUP_MS = 1
_DOWNTIME_MS = 1


class _Migration:
    """The current migration, or the last one; out of this machine, or into it."""

    def __init__(self, state: State, names: Iterable[str]) -> None:
        self.state = state
        self.status: Status = "none"
        self.capabilities = Capabilities(names)
        self.parameters = Parameters()
        self._begun = self._ended = 0.0
        self._number = 0  # of the migration that a timer belongs to
        self._converging: asyncio.Handle | None = None
        self._before = state.status  # the run state before the switchover
        self._incoming: Address | None = None

    @property
    def outgoing(self) -> bool:
        return self._incoming is None and self.status in UNDER_WAY

    def enter(self, status: Status) -> None:
        self.status = status
        if status in OVER:
            self._ended = time.monotonic()
        if self.capabilities.get("events"):
            self.state.emit("MIGRATION", {"status": status})

    def set_capabilities(self, states: dict[str, bool]) -> None:
        self.capabilities.set(
            states,
            ring=True,
            under_way=self.outgoing,
            awaited=self._incoming is not None,
            plain=self.parameters.plain,
        )

    def start(self, address: Address, resume: bool) -> None:
        check_transport(address, self.capabilities)
        if resume:
            raise CommandError("Cannot resume if there is no paused migration")
        if self.outgoing:
            raise CommandError(IN_PROGRESS)
        if self.state.status == "inmigrate":
            raise CommandError("Guest is waiting for an incoming migration")
        if self.state.status == "postmigrate":
            raise CommandError("Can't migrate the vm that was paused due to previous migration")
        self._incoming = None
        self._begun, self._number = time.monotonic(), self._number + 1
        self.enter("setup")
        self.state.later(0, self._step, "setup", "active")
        if self._converging is not None:
            self._converging.cancel()
        seconds = self.state.machine.migration_time
        self._converging = self.state.later(seconds, self._converged, self._number)

    def check_awaited(self) -> None:
        if self._incoming is not None:
            raise CommandError("The incoming migration has already been started")
        if self.state.status != "inmigrate":
            raise CommandError("'-incoming' was not specified on the command line")

    def wait(self, address: Address) -> None:
        check_transport(address, self.capabilities)
        self._incoming = address
        self.enter("setup")
        self.state.later(self.state.machine.migration_time, self._arrived)

    def cancel(self) -> None:
        if self.outgoing:
            self.enter("cancelling")
            self.state.later(0, self._step, "cancelling", "cancelled")

    def resume(self, expected: str) -> None:
        """Continue after the pause before the switchover."""
        if self.status != expected:
            raise CommandError(f"Migration not in expected state: {self.status}")
        if self.status == "pre-switchover":
            self.enter("device")
            self.state.later(0, self._complete)

    def _step(self, before: Status, after: Status) -> None:
        if self.status == before:
            if after == "cancelled" and self.state.status == "finish-migrate":
                self.state.set_status(self._before)
            self.enter(after)

    def _converged(self, number: int) -> None:
        if number != self._number or self.status not in ("setup", "active"):
            return
        if self.status == "setup":
            self.enter("active")
        if self.capabilities.get("events"):
            self.state.emit("MIGRATION_PASS", {"pass": 2})
        self._before = self.state.status
        self.state.set_status("finish-migrate")
        if self.capabilities.get("pause-before-switchover"):
            self.enter("pre-switchover")
        else:
            self.enter("device")
            self._complete()

    def _complete(self) -> None:
        if self.status == "device":
            self.state.status = "postmigrate"
            self.enter("completed")

    def _arrived(self) -> None:
        self.enter("active")
        self.state.set_status("running")
        self.enter("completed")

    def info(self) -> dict[str, Any]:
        if self._incoming is not None:
            return destination_info(self.status, addresses=_sockets(self._incoming))
        return source_info(self._figures(), self.status)

    def _figures(self) -> Figures:
        elapsed = (self._ended if self.status in OVER else time.monotonic()) - self._begun
        duration = self.state.machine.migration_time
        over = self.status in ("completed", "pre-switchover", "device")
        done = 1.0 if over or not duration else min(elapsed / duration, 1.0)
        total = self.state.machine.memory
        sent = int(total * done) // PAGE * PAGE
        return Figures(
            total_time=int(elapsed * 1000),
            setup_time=_SETUP_MS,
            expected_downtime=self.parameters["downtime-limit"],
            downtime=_DOWNTIME_MS,
            total=total,
            remaining=total - sent,
            transferred=sent,
            normal=sent // PAGE,
            mbps=sent * 8 / max(elapsed, 0.001) / 1e6,
            dirty_sync_count=1 + (done == 1.0),
            pages_per_second=int(sent / PAGE / max(elapsed, 0.001)),
            precopy_bytes=sent,
        )


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    migration = _Migration(state, _names(registry))

    @registry.command("migrate")
    def migrate(
        uri: str | None = None, channels: Any = None, resume: bool = False, **_: Any
    ) -> None:
        migration.start(parse_address(uri, channels, "source"), resume)

    @registry.command("migrate-incoming")
    def migrate_incoming(uri: str | None = None, channels: Any = None, **_: Any) -> None:
        migration.check_awaited()
        migration.wait(parse_address(uri, channels, "destination"))

    @registry.command("migrate_cancel")
    def migrate_cancel() -> None:
        migration.cancel()

    @registry.command("migrate-continue")
    def migrate_continue(**arguments: Any) -> None:
        migration.resume(arguments.get("state", ""))

    @registry.command("query-migrate")
    def query_migrate() -> Any:
        return migration.info()

    @registry.command("migrate-set-capabilities")
    def migrate_set_capabilities(capabilities: list[dict[str, Any]]) -> None:
        migration.set_capabilities({one["capability"]: one["state"] for one in capabilities})

    @registry.command("query-migrate-capabilities")
    def query_migrate_capabilities() -> Any:
        return migration.capabilities.query()

    @registry.command("migrate-set-parameters")
    def migrate_set_parameters(**parameters: Any) -> None:
        named = {name.replace("_", "-"): value for name, value in parameters.items()}
        migration.parameters.set(named, capabilities=migration.capabilities)

    @registry.command("query-migrate-parameters")
    def query_migrate_parameters() -> Any:
        return migration.parameters.query()


def _names(registry: Registry) -> Sequence[str]:
    """Return the capabilities of the schema: a release's, in its order."""
    command = registry.schema.commands.get("query-migrate-capabilities")
    returned = command.returns if command else None
    element = returned.element if isinstance(returned, ArrayType) else None
    members = element.members if isinstance(element, ObjectType) else []
    for one in members:
        if one.name == "capability" and isinstance(one.type, EnumType):
            return [value.name for value in one.type.values]
    return CAPABILITIES


def _sockets(address: Address) -> list[dict[str, Any]]:
    """Return the sockets that would listen on `address`."""
    match address:
        case UnixAddress(path):
            return [{"type": "unix", "path": path}]
        case TcpAddress(host, port):
            return [{"type": "inet", "host": host, "port": port}]
    return []
