"""Migration: one stand-in sends its run state to another; no RAM is sent.

The status and the progress change as in a real one. The contract, with its refusals, is
`qmpserver.migration`'s. The names of the capabilities come from the schema:
`query-migrate-capabilities` returns each value of its enumeration. Two of them have an effect:
`events` and `pause-before-switchover`.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.migration import wire
from qmpserver.migration.address import (
    FdAddress,
    TcpAddress,
    UnixAddress,
    check_transport,
    parse_address,
)
from qmpserver.migration.capabilities import CAPABILITIES, IN_PROGRESS, Capabilities
from qmpserver.migration.channels import Listener, accept_one, open_channel
from qmpserver.migration.info import PAGE, Figures, destination_info, source_info
from qmpserver.migration.parameters import Parameters
from qmpserver.migration.status import OVER, UNDER_WAY
from qmpserver.monitor import DeviceError
from qmpserver.monitor.fds import Passed
from qmpserver.qapi.model import ArrayType, EnumType, ObjectType
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from qmpserver.migration.address import Address
    from qmpserver.migration.channels import Channel
    from qmpserver.migration.status import Status
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_SETUP_MS = 1
_ALONE = {"run_state": "running"}  # of a source that does not exist
_DOWNTIME_MS = 1


class _Migration:
    """The current migration, or the last one; out of this machine, or into it."""

    def __init__(self, state: State, names: Iterable[str]) -> None:
        self.state = state
        self.status: Status = "none"
        self.capabilities = Capabilities(names)
        self.parameters = Parameters(state.release.parameters)
        self._begun = self._ended = 0.0
        self._task: asyncio.Task[None] | None = None  # sends
        self._continued = asyncio.Event()
        self._before = state.status  # the run state before the switchover
        self._incoming: Address | None = None
        self._addresses: list[dict[str, Any]] = []  # that are listened on
        self._error = ""

    @property
    def _alone(self) -> bool:
        """Whether a migration uses no address."""
        return not self.state.machine.migration_peer or self.state.in_setup

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
        passed = self._passed(address)
        self._incoming = None
        self._error = ""
        self._begun = time.monotonic()
        self._continued.clear()
        self.enter("setup")
        opening = _nobody if self._alone else partial(open_channel, address, passed)
        self._task = self.state.start(self._send(opening))

    def check_awaited(self) -> None:
        if self._incoming is not None:
            raise CommandError("The incoming migration has already been started")
        if self.state.status != "inmigrate":
            raise CommandError("'-incoming' was not specified on the command line")
        if self.status != "none":  # after an attempt that failed
            raise CommandError(f"Illegal migration incoming state: {self.status}")

    def wait(self, address: Address) -> Awaitable[None] | None:
        """Wait for the guest of another stand-in; return an awaitable if it takes time to begin."""
        check_transport(address, self.capabilities)
        passed = self._passed(address)
        self._incoming = address
        self.enter("setup")
        if self._alone:
            self.state.later(self.state.machine.migration_time, self._arrived, _ALONE)
        elif isinstance(address, UnixAddress | TcpAddress):
            return self._listen(address)
        else:
            self.state.start(self._receive(partial(accept_one, address, passed)))
        return None

    async def _listen(self, address: UnixAddress | TcpAddress) -> None:
        try:
            listener = await Listener.listen(address)
        except DeviceError as error:
            self._incoming = None
            raise CommandError(str(error)) from None
        self._addresses = listener.addresses()
        self.state.start(self._receive(listener.accept, listener))

    def cancel(self) -> None:
        if self.outgoing:
            if self._task is not None:
                self._task.cancel()
            self.enter("cancelling")
            self.state.later(0, self._cancelled)

    def resume(self, expected: str) -> None:
        """Continue after the pause before the switchover."""
        if self.status != expected:
            raise CommandError(f"Migration not in expected state: {self.status}")
        if self.status == "pre-switchover":
            self.enter("device")
            self._continued.set()

    def _passed(self, address: Address) -> Passed:
        """Take the descriptor that an address names; return what hands it over.

        Raises:
            CommandError: There is no such descriptor.
        """
        fd = -1
        if isinstance(address, FdAddress) and not self._alone:
            fd = self.state.take_fd(address.name)
        return Passed(lambda _: fd, self.state.host.fds.duplicate)

    def _cancelled(self) -> None:
        if self.status == "cancelling":
            self._back()
            self.enter("cancelled")

    def _failed(self, error: Exception) -> None:
        self._error = wire.reason(error)
        self._back()
        self.enter("failed")

    def _back(self) -> None:
        """Run the guest again if it ran before the switchover."""
        if self.state.status == "finish-migrate":
            self.state.set_status(self._before)

    async def _send(self, opening: Callable[[], Awaitable[Channel | None]]) -> None:
        try:
            channel = await opening()
        except (DeviceError, OSError) as error:
            self._failed(error)
            return
        try:
            self.enter("active")
            await asyncio.sleep(self.state.machine.migration_time)
            await self._switch_over(channel)
        except (OSError, wire.StreamError) as error:
            self._failed(error)
        finally:
            if channel is not None:
                channel.close()

    async def _switch_over(self, channel: Channel | None) -> None:
        if self.capabilities.get("events"):
            self.state.emit("MIGRATION_PASS", {"pass": 2})
        self._before = self.state.status
        self.state.set_status("finish-migrate")
        if self.capabilities.get("pause-before-switchover"):
            self.enter("pre-switchover")
            await self._continued.wait()
        else:
            self.enter("device")
        if channel is not None:
            await channel.send("state", run_state=self._before)
            await channel.finish()
        self.state.status = "postmigrate"
        self.enter("completed")

    async def _receive(
        self, opening: Callable[[], Awaitable[Channel]], listener: Listener | None = None
    ) -> None:
        try:
            channel = await opening()
        except OSError as error:
            self._failed(error)
            return
        finally:
            if listener is not None:
                listener.close()
        self.enter("active")  # the rest may take a while
        try:
            self._arrived(wire.expect(await channel.receive(), "state"))
        except (OSError, wire.StreamError) as error:
            self._failed(error)
        finally:
            channel.close()

    def _arrived(self, message: dict[str, Any]) -> None:
        """Take over the run state of the source, unless the guest is to stay stopped."""
        if self.status == "setup":
            self.enter("active")
        status = message.get("run_state")
        if status == "running" and not self.state.autostart:
            status = "paused"
        self.state.set_status(status if isinstance(status, str) else "paused")
        self.enter("completed")

    def info(self) -> dict[str, Any]:
        if self._incoming is not None:
            sockets = self._addresses or _sockets(self._incoming)
            return destination_info(self.status, addresses=sockets, error=self._error)
        return source_info(self._figures(), self.status, error=self._error)

    def _figures(self) -> Figures:
        elapsed = (self._ended if self.status in OVER else time.monotonic()) - self._begun
        duration = self.state.machine.migration_time
        over = self.status in ("completed", "pre-switchover", "device")
        done = 1.0 if over or not duration else min(elapsed / duration, 1.0)
        total = self.state.machine.memory
        sent = int(total * done) // PAGE * PAGE
        figures = Figures(total)
        figures.total_time = int(elapsed * 1000)
        figures.setup_time = _SETUP_MS
        figures.expected_downtime = self.parameters["downtime-limit"]
        figures.downtime = _DOWNTIME_MS
        figures.remaining = total - sent
        figures.transferred = figures.precopy_bytes = sent
        figures.normal = sent // PAGE
        figures.mbps = sent * 8 / max(elapsed, 0.001) / 1e6
        figures.dirty_sync_count = 1 + (done == 1.0)
        figures.pages_per_second = int(sent / PAGE / max(elapsed, 0.001))
        return figures


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    migration = _Migration(state, _names(registry))

    @registry.command("migrate")
    def migrate(
        uri: str | None = None, channels: Any = None, resume: bool = False, **_: Any
    ) -> None:
        migration.start(parse_address(uri, channels, "source"), resume)

    @registry.command("migrate-incoming")
    def migrate_incoming(uri: str | None = None, channels: Any = None, **_: Any) -> Any:
        migration.check_awaited()
        return migration.wait(parse_address(uri, channels, "destination"))

    async def await_migration(uri: str) -> None:
        listening = migration.wait(parse_address(uri, None, "destination"))
        if listening is not None:
            await listening

    state.await_migration = await_migration

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


async def _nobody() -> None:
    """Open no channel."""
