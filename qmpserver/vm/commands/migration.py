"""Handlers of `schema/migration.json`."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, cast

from qmpserver.migration.address import parse_address
from qmpserver.migration.extensions import FORECAST
from qmpserver.monitor import DeviceError
from qmpserver.monitor.fds import FileDescriptors, Passed, take_inherited
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Client, Registry
    from qmpserver.vm.commands.types import (
        DirtyLimitInfo,
        DirtyRateInfo,
        DirtyRateMeasureMode,
        MigrationCapabilityStatus,
        MigrationChannel,
        MigrationForecast,
        MigrationInfo,
        MigrationParameters,
        MigrationStatus,
        TimeUnit,
    )
    from qmpserver.vm.machine.machine import Machine

log = logging.getLogger(__name__)

_OWN = "__org.qmpserver_"
_WHILE_RUNNING = "dirty page rate limit while migration is running"


def _sender(client: Client | None) -> str:
    return f"monitor {client.monitor}" if client is not None else "human monitor"


def _targets(cpu_index: int | None) -> str:
    return "all vCPUs" if cpu_index is None else f"vCPU {cpu_index}"


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""
    _register_dirty_memory(registry, machine)
    _register_migration(registry, machine)


def _register_dirty_memory(registry: Registry, machine: Machine) -> None:
    @registry.command("set-vcpu-dirty-limit", client=True)
    def set_vcpu_dirty_limit(
        client: Client | None, *, dirty_rate: int, cpu_index: int | None = None
    ) -> None:
        if machine.migration.limits_vcpus:
            raise CommandError(f"can't set {_WHILE_RUNNING}")
        try:
            machine.dirty_limit.set(dirty_rate, cpu_index)
        except ValueError as error:
            raise CommandError(str(error)) from None
        log.info("%s: dirty limit of %s: %d MB/s", _sender(client), _targets(cpu_index), dirty_rate)

    @registry.command("cancel-vcpu-dirty-limit", client=True)
    def cancel_vcpu_dirty_limit(client: Client | None, *, cpu_index: int | None = None) -> None:
        if machine.migration.limits_vcpus:
            raise CommandError(f"can't cancel {_WHILE_RUNNING}")
        try:
            machine.dirty_limit.cancel(cpu_index)
        except ValueError as error:
            raise CommandError(str(error)) from None
        log.info("%s: dirty limit of %s: cancelled", _sender(client), _targets(cpu_index))

    @registry.command("query-vcpu-dirty-limit")
    def query_vcpu_dirty_limit() -> list[DirtyLimitInfo]:
        return [
            {
                "limit-rate": limit.limit_rate,
                "current-rate": limit.current_rate,
                "cpu-index": limit.cpu_index,
            }
            for limit in machine.dirty_limit.query()
        ]

    @registry.command("calc-dirty-rate")
    def calc_dirty_rate(
        *,
        calc_time: int,
        calc_time_unit: TimeUnit = "second",
        sample_pages: int | None = None,
        mode: DirtyRateMeasureMode = "page-sampling",
    ) -> None:
        milliseconds = calc_time * 1000 if calc_time_unit == "second" else calc_time
        try:
            machine.dirty_rate.start(milliseconds, mode, sample_pages)
        except ValueError as error:
            raise CommandError(str(error)) from None

    @registry.command("query-dirty-rate")
    def query_dirty_rate(*, calc_time_unit: TimeUnit = "second") -> DirtyRateInfo:
        last = machine.dirty_rate.last
        in_seconds = calc_time_unit == "second"
        info: DirtyRateInfo = {
            "status": last.status,
            "sample-pages": last.sample_pages,
            "mode": last.mode,
            "start-time": last.start_time,
            "calc-time": last.calc_ms // 1000 if in_seconds else last.calc_ms,
            "calc-time-unit": calc_time_unit,
        }
        if last.status == "measured":
            info["dirty-rate"] = last.rate
            if last.mode == "dirty-ring":
                info["vcpu-dirty-rate"] = [
                    {"dirty-rate": rate, "id": index} for index, rate in enumerate(last.vcpu_rates)
                ]
        return info


def _member(keyword: str) -> str:
    """Return the name of the member that a handler gets as a keyword."""
    prefix = _OWN if keyword.startswith(_OWN) else ""
    return prefix + keyword.removeprefix(prefix).replace("_", "-")


def _passed(client: Client | None) -> Passed:
    """Return what was passed to the server, as the client's monitor sees it."""
    if client is None:
        fds = FileDescriptors()
        return Passed(fds.take_named, fds.duplicate)
    fds = client.server.fds

    def take(name: str) -> int:
        return take_inherited(name) if name.isdecimal() else fds.take(client.monitor, name)

    return Passed(take, fds.duplicate)


def _register_migration(registry: Registry, machine: Machine) -> None:
    migration = machine.migration

    @registry.command("migrate", client=True)
    def migrate(
        client: Client | None,
        *,
        uri: str | None = None,
        channels: list[MigrationChannel] | None = None,
        resume: bool = False,
    ) -> None:
        address = parse_address(uri, channels, "source")
        migration.start(address, _passed(client), resume=resume)

    @registry.command("migrate-incoming", client=True)
    async def migrate_incoming(
        client: Client | None,
        *,
        uri: str | None = None,
        channels: list[MigrationChannel] | None = None,
        exit_on_error: bool = True,
    ) -> None:
        migration.check_awaited()
        address = parse_address(uri, channels, "destination")
        try:
            await migration.incoming(address, _passed(client), exit_on_error=exit_on_error)
        except DeviceError as error:
            raise CommandError(str(error)) from None

    @registry.command("migrate_cancel")
    def migrate_cancel() -> None:
        migration.cancel()

    @registry.command("migrate-continue")
    def migrate_continue(*, state: MigrationStatus) -> None:
        migration.continue_(state)

    @registry.command("migrate-set-capabilities")
    def migrate_set_capabilities(*, capabilities: list[MigrationCapabilityStatus]) -> None:
        migration.set_capabilities({one["capability"]: one["state"] for one in capabilities})

    @registry.command("query-migrate-capabilities")
    def query_migrate_capabilities() -> list[MigrationCapabilityStatus]:
        return cast("list[MigrationCapabilityStatus]", migration.capabilities.query())

    @registry.command("migrate-set-parameters")
    def migrate_set_parameters(**parameters: Any) -> None:
        migration.set_parameters({_member(keyword): one for keyword, one in parameters.items()})

    @registry.command("query-migrate-parameters")
    def query_migrate_parameters() -> MigrationParameters:
        return cast("MigrationParameters", migration.parameters.query())

    @registry.command(FORECAST)
    async def query_migration_forecast(*, bandwidth: int | None = None) -> MigrationForecast:
        try:
            told = await migration.forecast(bandwidth)
        except OSError as error:
            raise CommandError(str(error)) from None
        result: MigrationForecast = {
            "possible": told.possible,
            "expected-downtime": round(told.expected_downtime * 1000),
            "kept": [round(part * 100) for part in told.kept],
        }
        if told.shortest_total < math.inf:
            result["shortest-total-time"] = round(told.shortest_total * 1000)
        if told.unlimited_total < math.inf:
            result["unlimited-total-time"] = round(told.unlimited_total * 1000)
        if told.expected_total < math.inf:
            result["expected-total-time"] = round(told.expected_total * 1000)
        return result

    @registry.command("query-migrate")
    def query_migrate() -> MigrationInfo:
        return cast("MigrationInfo", migration.info())
