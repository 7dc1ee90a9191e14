"""Work that goes on after the answer to its command: how it is followed until its end."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import QmpctlError, UsageError, sensible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qmpserver.qapi import Schema
    from qmpserver.tools.client import Client

    Events = Sequence[Mapping[str, Any]]
    Follow = Callable[[Client, Mapping[str, Any], Events], Any]

LOOK_S = 0.1
PATIENCE_S = 3600.0
"""Seconds that are waited at a time."""

_PENDING = object()


class FailedError(QmpctlError):
    """The work has failed; the text says why."""


def fits(wanted: Any, got: Any) -> bool:
    """Return whether a value has at least the members of another one, and their values."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(name in got and fits(value, got[name]) for name, value in wanted.items())
    return bool(wanted == got)


def goes_on(schema: Schema, command: str) -> bool:
    """Return whether the work of a command goes on after its answer, as far as is known."""
    declared = schema.commands.get(command)
    members = declared.arguments.members if declared else ()
    return command in _FOLLOWERS or any(member.name == "job-id" for member in members)


def follow(
    client: Client,
    schema: Schema,
    command: str,
    arguments: Mapping[str, Any],
    *,
    patience: float | None,
) -> Any:
    """Execute a command, wait until its work is done, and return its outcome.

    Args:
        client: The client; its events are used up.
        schema: The server's schema.
        command: The command.
        arguments: Its arguments.
        patience: How many seconds to wait; None for no limit.

    Raises:
        FailedError: The work failed, or did not end in time.
        RefusedError: The server refused the command.
        ServerError: The server has hung up, or its answers make no sense.
        UsageError: The command's work is done when it is answered.
    """
    look = _follower(schema, command)
    events: list[dict[str, Any]] = []
    client.on_event = events.append
    deadline = math.inf if patience is None else time.monotonic() + patience
    client.execute(command, arguments)
    while True:
        with sensible(client.address, f"queries about {command}"):
            outcome = look(client, arguments, events)
        if outcome is not _PENDING:
            return outcome
        left = deadline - time.monotonic()
        if left <= 0:
            raise FailedError(f"{client.address}: {command} has not ended within {patience:g} s")
        client.wait_event(min(left, LOOK_S))


def _follower(schema: Schema, command: str) -> Follow:
    if goes_on(schema, command):
        return _FOLLOWERS.get(command, _started_job)
    known = ", ".join(_FOLLOWERS)
    raise UsageError(
        f"--wait: the work of {command} is done when it is answered, as far as is known; "
        f"it is for {known} and commands with a job-id"
    )


def _dirty_rate(client: Client, _arguments: Mapping[str, Any], _events: Events) -> Any:
    info = client.execute("query-dirty-rate")
    return info if info["status"] == "measured" else _PENDING  # it may not have started yet


def _migration(client: Client, _arguments: Mapping[str, Any], _events: Events) -> Any:
    info = client.execute("query-migrate")
    status = info.get("status", "none")
    if status in ("failed", "cancelled"):
        raise FailedError(": ".join([f"the migration has {_ENDED[status]}", *_desc(info)]))
    # The others wait for the user: for migrate-continue or migrate-recover.
    return info if status in ("completed", "pre-switchover", "postcopy-paused") else _PENDING


_ENDED = {"failed": "failed", "cancelled": "been cancelled"}


def _cancelled_migration(client: Client, _arguments: Mapping[str, Any], _events: Events) -> Any:
    info = client.execute("query-migrate")
    ended = info.get("status", "none") in ("none", "cancelled", "completed", "failed")
    return info if ended else _PENDING


def _dump(client: Client, _arguments: Mapping[str, Any], _events: Events) -> Any:
    info = client.execute("query-dump")
    if info["status"] == "failed":
        raise FailedError("the dump has failed")
    return _PENDING if info["status"] == "active" else info


def _unplug(_client: Client, arguments: Mapping[str, Any], events: Events) -> Any:
    for event in events:
        data = event.get("data", {})
        if arguments["id"] in (data.get("device"), data.get("path")):
            if event["event"] == "DEVICE_DELETED":
                return data
            if event["event"] == "DEVICE_UNPLUG_GUEST_ERROR":
                raise FailedError(f"the guest does not release {arguments['id']}")
    return _PENDING


def _powerdown(_client: Client, _arguments: Mapping[str, Any], events: Events) -> Any:
    return next((one.get("data", {}) for one in events if one["event"] == "SHUTDOWN"), _PENDING)


def _started_job(client: Client, arguments: Mapping[str, Any], events: Events) -> Any:
    return _job(client, arguments, events, "ready", "pending", "concluded")


def _completed_job(client: Client, arguments: Mapping[str, Any], events: Events) -> Any:
    return _job(client, arguments, events, "pending", "concluded")


def _finalized_job(client: Client, arguments: Mapping[str, Any], events: Events) -> Any:
    return _job(client, arguments, events, "concluded")


def _cancelled_job(client: Client, arguments: Mapping[str, Any], events: Events) -> Any:
    return _job(client, arguments, events, "concluded", "cancelled")


def _job(client: Client, arguments: Mapping[str, Any], events: Events, *ends: str) -> Any:
    """Return a job's last state if it is one of `ends`, or if the job is gone."""
    jobs = {job["id"]: job for job in client.execute("query-jobs")}
    name = next((arguments[key] for key in _JOB_IDS if key in arguments), None)
    last = {"id": name, "status": "null"}  # it has dismissed itself
    for event in events:
        data = event.get("data", {})
        if event["event"] == "JOB_STATUS_CHANGE" and name is None:
            name = data["id"]  # the server has made it up
        elif event["event"] in _JOB_ENDS and data["device"] == name:
            last = data
            if event["event"] == "BLOCK_JOB_CANCELLED" and "cancelled" not in ends:
                raise FailedError(f"job {name} has been cancelled")
    job = jobs.get(name, last)
    if name in jobs and job["status"] not in ends:
        return _PENDING
    if "error" in job:
        raise FailedError(f"job {name} has failed: {job['error']}")
    return job


_JOB_IDS = ("job-id", "id", "device")
_JOB_ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


def _desc(info: Mapping[str, Any]) -> list[str]:
    return [info["error-desc"]] if "error-desc" in info else []


_FOLLOWERS: dict[str, Follow] = {
    "calc-dirty-rate": _dirty_rate,
    "migrate": _migration,
    "migrate-incoming": _migration,
    "migrate-continue": _migration,
    "migrate_cancel": _cancelled_migration,
    "dump-guest-memory": _dump,
    "device_del": _unplug,
    "system_powerdown": _powerdown,
    "block-job-complete": _completed_job,
    "block-job-cancel": _cancelled_job,
    "block-job-finalize": _finalized_job,
    "job-complete": _completed_job,
    "job-cancel": _cancelled_job,
    "job-finalize": _finalized_job,
}
