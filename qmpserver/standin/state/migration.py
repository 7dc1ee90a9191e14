"""Migration: no data is sent, but the status and the progress change as in a real one.

The names of the capabilities come from the schema: `query-migrate-capabilities` returns each value
of its enumeration. Two of them have an effect: `events` and `pause-before-switchover`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_UNDER_WAY = ("setup", "active", "pre-switchover", "device", "postcopy-active", "cancelling")
PAGE = 4096


class _Migration:
    """The current migration, or the last one."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.status: str | None = None
        self.begun = self.ended = 0.0
        self.capabilities: dict[str, bool] = {}
        self.parameters: dict[str, Any] = {}
        self._number = 0  # of the migration that a timer belongs to

    def enter(self, status: str) -> None:
        self.status = status
        if status in ("completed", "failed", "cancelled"):
            self.ended = time.monotonic()
        if self.capabilities.get("events"):
            self.state.emit("MIGRATION", {"status": status})

    def start(self) -> None:
        if self.status in _UNDER_WAY:
            raise CommandError("There's a migration process in progress")
        self.begun, self._number = time.monotonic(), self._number + 1
        self.enter("setup")
        self.state.later(0, self._step, "setup", "active")
        self.state.later(self.state.machine.migration_time, self._converged, self._number)

    def cancel(self) -> None:
        if self.status not in _UNDER_WAY:
            return
        self.enter("cancelling")
        self.state.later(0, self._step, "cancelling", "cancelled")

    def resume(self, expected: str) -> None:
        """Continue after the pause before the switchover."""
        if self.status != expected:
            raise CommandError(f"Migration not in expected state: {self.status or 'none'}")
        self.enter("device")
        self.state.later(0, self._complete)

    def _step(self, before: str, after: str) -> None:
        if self.status == before:
            self.enter(after)
            if after == "cancelled" and self.state.status == "finish-migrate":
                self.state.set_status("running")

    def _converged(self, number: int) -> None:
        if number != self._number or self.status not in ("setup", "active"):
            return
        if self.status == "setup":
            self.enter("active")
        self.state.set_status("finish-migrate")
        if self.capabilities.get("pause-before-switchover"):
            self.enter("pre-switchover")
        else:
            self._complete()

    def _complete(self) -> None:
        if self.status in ("active", "device"):
            self.state.status = "postmigrate"
            self.enter("completed")

    def info(self) -> dict[str, Any]:
        if self.status is None:
            return {}
        until = self.ended if self.status in ("completed", "failed", "cancelled") else None
        elapsed = (until or time.monotonic()) - self.begun
        duration = self.state.machine.migration_time
        over = self.status in ("completed", "pre-switchover", "device")
        done = 1.0 if over or not duration else min(elapsed / duration, 1.0)
        total = self.state.machine.memory
        sent = int(total * done) // PAGE * PAGE
        info = {
            "status": self.status,
            "total-time": int(elapsed * 1000),
            "setup-time": 1,
            "ram": {
                "total": total,
                "transferred": sent,
                "remaining": total - sent,
                "normal": sent // PAGE,
                "normal-bytes": sent,
                "page-size": PAGE,
                "dirty-sync-count": 1 + (done == 1.0),
                "mbps": sent * 8 / max(elapsed, 0.001) / 1e6,
            },
        }
        if self.status == "setup":
            return {"status": self.status}
        if self.status == "completed":
            info["downtime"] = 1
        else:
            info["expected-downtime"] = 300
        return info


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    migration = _Migration(state)

    @registry.command("migrate")
    def migrate(**_: Any) -> None:
        migration.start()

    @registry.command("migrate-incoming")
    def migrate_incoming(**_: Any) -> None:
        if state.status != "inmigrate":
            raise CommandError("'-incoming' was not specified on the command line")
        migration.enter("setup")
        state.later(state.machine.migration_time, arrived)

    def arrived() -> None:
        migration.enter("active")
        migration.enter("completed")
        state.set_status("running")

    @registry.command("migrate_cancel")
    def migrate_cancel() -> None:
        migration.cancel()

    @registry.command("migrate-continue")
    def migrate_continue(**arguments: Any) -> None:
        migration.resume(arguments["state"])

    @registry.command("query-migrate")
    def query_migrate() -> Any:
        return migration.info()

    @registry.command("migrate-set-capabilities")
    def migrate_set_capabilities(capabilities: list[dict[str, Any]]) -> None:
        migration.capabilities |= {one["capability"]: one["state"] for one in capabilities}

    @registry.command("query-migrate-capabilities")
    def query_migrate_capabilities() -> Any:
        members = registry.schema.commands["query-migrate-capabilities"].returns
        return [
            {"capability": name, "state": migration.capabilities.get(name, False)}
            for name in _values(members, "capability")
        ]

    @registry.command("migrate-set-parameters")
    def migrate_set_parameters(**parameters: Any) -> None:
        for name, value in parameters.items():
            migration.parameters[name.replace("_", "-")] = "" if value is None else value

    @registry.command("query-migrate-parameters")
    def query_migrate_parameters() -> Any:
        return _DEFAULTS | migration.parameters


_DEFAULTS: dict[str, Any] = {
    "announce-initial": 50,
    "announce-max": 550,
    "announce-rounds": 5,
    "announce-step": 100,
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "max-bandwidth": 128 << 20,
    "downtime-limit": 300,
    "multifd-channels": 2,
    "max-cpu-throttle": 99,
    "tls-creds": "",
    "tls-hostname": "",
    "tls-authz": "",
    "xbzrle-cache-size": 64 << 20,
}


def _values(returns: Any, member: str) -> list[str]:
    """Return the values of an enumeration that is a member of a list's elements."""
    (found,) = [one for one in returns.element.members if one.name == member]
    return [value.name for value in found.type.values]
