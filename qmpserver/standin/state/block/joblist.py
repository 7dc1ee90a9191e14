"""Jobs: their statuses, from their creation until they are dismissed.

A job is as fast as the next turn of the event loop; its statuses and events are QEMU's.
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import IDENTIFIER
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpserver.standin.state.budget import Kept

_EVENT = ("type", "device", "len", "offset", "speed")
# The statuses in which a job takes a command, as far as a client can meet them here.
_TAKES = {
    "pause": ("running", "paused", "ready", "standby"),
    "resume": ("running", "paused", "ready", "standby"),
    "complete": ("ready", "standby"),
    "cancel": ("running", "paused", "ready", "standby", "waiting", "pending"),
    "finalize": ("pending",),
    "dismiss": ("concluded",),
    "set-speed": ("running", "paused", "ready", "standby"),
}
# The statuses of jobs that pause, and their statuses while they do.
_PAUSES = {"running": "paused", "ready": "standby"}
_BLOCK_JOBS = ("mirror", "commit", "stream", "backup")


class Jobs:
    """The functions that start and end jobs.

    Args:
        jobs: Where they are kept, by id.
        emit: Function that sends an event.
        later: Function that calls a function after a delay.
    """

    def __init__(self, jobs: Kept, emit: Callable[..., None], later: Callable[..., object]) -> None:
        self._jobs = jobs
        self._emit = emit
        self._later = later
        self._pivots: dict[str, Callable[[], None]] = {}
        self._ends: dict[str, Callable[[], None]] = {}
        self._waiting: dict[str, Callable[[str], None]] | None = None  # begin with a transaction
        self.completing: set[str] = set()  # those to complete as soon as they are resumed

    def find(self, name: str, verb: str) -> dict[str, Any]:
        """Return a job that takes a command.

        Raises:
            CommandError: There is no such job, or it takes no such command now.
        """
        job = self._jobs.get(name)
        if job is None:
            raise CommandError("Job not found")
        if job["status"] not in _TAKES[verb]:
            raise CommandError(
                f"Job '{name}' in state '{job['status']}' cannot accept command verb '{verb}'"
            )
        return job

    def find_block_job(self, name: str, verb: str) -> dict[str, Any]:
        """Return a block job, as `find` does.

        Raises:
            CommandError: There is no such job, or it takes no such command now.
        """
        if not is_block_job(self._jobs.get(name, {"type": None})):
            raise CommandError(f"Block job '{name}' not found", "DeviceNotActive")
        return self.find(name, verb)

    def start(
        self,
        name: str,
        kind: str,
        size: int,
        options: dict[str, Any],
        *,
        pivot: Callable[[], None] | None = None,
        end: Callable[[], None] | None = None,
        waits: bool = False,
        ends: bool = True,
        auto_dismiss: bool = True,
        source: str | None = None,
        target: str | None = None,
        work: Callable[[], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Start a job.

        Args:
            name: Its id.
            kind: Its type.
            size: The bytes that it copies.
            options: The command's arguments, of which some are common to all jobs.
            pivot: Function to call when it has completed.
            end: Function to call when it has completed or failed.
            waits: Whether it waits for a command when everything is copied.
            ends: Whether it ends by itself.
            auto_dismiss: Whether it goes when it has concluded, if the options do not say.
            source: The node that it reads.
            target: The node that it writes.
            work: Function to call in place of the work; the job fails if it raises CommandError.
            check: Function that raises CommandError if the job cannot use its nodes.

        Raises:
            CommandError: There is such a job, its name or its speed is not valid, or `check`
                refuses it.
        """
        if not re.fullmatch(IDENTIFIER, name):
            raise CommandError(f"Invalid job ID '{name}'")
        if name in self._jobs:
            raise CommandError(f"Job ID '{name}' already in use")
        self._jobs[name] = {
            "type": kind, "device": name, "len": size, "offset": size if ends else 0,
            "source": source, "target": target, "speed": options.get("speed", 0), "busy": False,
            "paused": False, "io-status": "ok", "ready": False, "status": "created",
            "auto-finalize": options.get("auto_finalize", True),
            "auto-dismiss": options.get("auto_dismiss", auto_dismiss),
        }  # fmt: skip
        if pivot is not None:
            self._pivots[name] = pivot
        if end is not None:
            self._ends[name] = end
        self.enter(name, "created")
        try:
            check_speed(options.get("speed", 0))
            if check is not None:
                check()
        except CommandError:
            self._pivots.pop(name, None)
            self.dismiss(name)
            raise
        begun: Callable[[str], None] = self.get_ready if waits else self.finish
        if work is not None:
            begun = partial(self._work, work)
        elif not ends:
            begun = _go_on
        if self._waiting is None:
            self._begin(name, begun)
        else:
            self._waiting[name] = begun

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin the jobs that the block starts at its end; abort them if it raises."""
        self._waiting = {}
        try:
            yield
        except CommandError:
            for name in self._waiting:
                self._pivots.pop(name, None)
                self.enter(name, "aborting")
                self.enter(name, "concluded")
                self.dismiss(name)
            raise
        else:
            for name, begun in self._waiting.items():
                self._begin(name, begun)
        finally:
            self._waiting = None

    def _begin(self, name: str, begun: Callable[[str], None]) -> None:
        self.enter(name, "running")
        if self._jobs[name]["type"] == "backup":
            self._drain(name)  # while its filter is put above the node
        self._later(0, begun, name)

    def drain(self) -> None:
        """Let all jobs that run pause for a moment, as they do when the machine stops."""
        self._drain(*self._jobs)

    def _drain(self, *names: str) -> None:
        before = {name: self._jobs[name]["status"] for name in names}
        drained = {name: one for name, one in before.items() if one in _PAUSES}
        for name, status in drained.items():
            self.enter(name, _PAUSES[status])
        for name, status in drained.items():
            self.enter(name, status)

    def _work(self, work: Callable[[], None], name: str) -> None:
        if self._jobs.get(name, {}).get("status") != "running":
            return
        try:
            work()
        except CommandError as error:
            self.enter(name, "aborting")
            self._conclude(name, error.desc)
        else:
            self.finish(name)

    def users(self, node: str) -> Iterator[tuple[str, str]]:
        """Yield the type and the role, `source` or `target`, of each job that uses a node."""
        for job in self._jobs.values():
            for role in ("source", "target"):
                if job[role] == node and job["status"] != "concluded":
                    yield job["type"], role

    def check_free(self, node: str, command: str) -> None:
        """Check that no job keeps a command from a node.

        Args:
            node: The node.
            command: `blockdev-del`, or another one.

        Raises:
            CommandError: A job uses it.
        """
        for kind, role in self.users(node):
            if command == "blockdev-del" and (kind, role) == ("backup", "source"):
                raise CommandError(f"Block device {node} is in use")
            if command == "blockdev-del" and role == "target" and kind != "backup":
                raise CommandError(f"Node {node} is in use")
            if (kind, role) != ("backup", "source"):
                raise CommandError(
                    f"Node '{node}' is busy: block device is in use by block job: {kind}"
                )

    def pause(self, name: str) -> None:
        """Pause a job.

        Raises:
            CommandError: It is paused.
        """
        if self._jobs[name]["paused"]:
            raise CommandError("Job is already paused")
        self.enter(name, _PAUSES["ready" if self._jobs[name]["ready"] else "running"])

    def resume(self, name: str) -> None:
        """Let a job go on that was paused; one that was to complete does so.

        Raises:
            CommandError: It is not paused.
        """
        job = self._jobs[name]
        if not job["paused"]:
            raise CommandError("Can't resume a job that was not paused")
        self.enter(name, "ready" if job["ready"] else "running")
        if name in self.completing or not (job["ready"] or job["offset"] < job["len"]):
            self._later(0, self.finish, name)

    def enter(self, name: str, status: str) -> None:
        """Give a job a status."""
        job = self._jobs[name]
        self._jobs[name] = {
            **job,
            "status": status,
            "ready": job["ready"] or status == "ready",
            "paused": status in ("paused", "standby"),
        }
        self._emit("JOB_STATUS_CHANGE", {"status": status, "id": name})

    def get_ready(self, name: str) -> None:
        """Let a job wait, with everything copied, for the command to complete it."""
        if self._jobs.get(name, {}).get("status") == "running":
            self.enter(name, "ready")
            self.tell(name, "BLOCK_JOB_READY")

    def complete(self, name: str) -> None:
        """Complete a job that is ready; one that is paused, as soon as it is resumed."""
        if self._jobs[name]["status"] == "standby":
            self.completing.add(name)
        else:
            self._later(0, self.finish, name)

    def finish(self, name: str) -> None:
        """End the work of a job; it completes unless a client wants to finalize it."""
        if self._jobs.get(name, {}).get("status") not in ("running", "ready"):
            return
        self.enter(name, "waiting")
        self.enter(name, "pending")
        if self._jobs[name]["auto-finalize"]:
            self.finalize(name)
        else:
            self._emit("BLOCK_JOB_PENDING", {"type": self._jobs[name]["type"], "id": name})

    def finalize(self, name: str) -> None:
        """Complete a job."""
        pivot = self._pivots.pop(name, None)
        if pivot is not None:
            pivot()
        self.tell(name, "BLOCK_JOB_COMPLETED")
        self._conclude(name)

    def cancel(self, name: str, *, force: bool) -> None:
        """Cancel a job; one that is ready completes, without its pivot, unless forced."""
        job = self._jobs.get(name)
        if job is None:
            return
        self._pivots.pop(name, None)
        if job["ready"] and not force:
            self.finish(name)
            return
        self.enter(name, "aborting")
        self.tell(name, "BLOCK_JOB_CANCELLED")
        self._conclude(name, "Operation canceled")

    def tell(self, name: str, event: str) -> None:
        """Send an event about a block job; other jobs have none."""
        job = self._jobs[name]
        if job["type"] in _BLOCK_JOBS:
            self._emit(event, {key: job[key] for key in _EVENT})

    def dismiss(self, name: str) -> None:
        """Forget a job that has concluded."""
        self.completing.discard(name)
        self._pivots.pop(name, None)
        self._ends.pop(name, None)
        self.enter(name, "null")
        del self._jobs[name]

    def _conclude(self, name: str, error: str | None = None) -> None:
        if error is not None:
            self._jobs[name] = {**self._jobs[name], "error": error}
        self.enter(name, "concluded")
        if (end := self._ends.pop(name, None)) is not None:
            end()
        if self._jobs[name]["auto-dismiss"]:
            self.dismiss(name)


def _go_on(_: str) -> None:
    """Let a job run until it is cancelled."""


def check_speed(speed: int) -> None:
    """Check the speed of a job.

    Raises:
        CommandError: It is negative.
    """
    if speed < 0:
        raise CommandError("Parameter 'speed' expects a non-negative value")


def is_block_job(job: dict[str, Any]) -> bool:
    """Return whether a job is one of those that `query-block-jobs` shows."""
    return job["type"] in _BLOCK_JOBS
