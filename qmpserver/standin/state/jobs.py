"""Jobs: those that copy block nodes, and those that create images.

A job is as fast as the next turn of the event loop; its statuses and events are QEMU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import backing_chain, node_of, overlay_of, replace_node, size_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_EVENT = ("type", "device", "len", "offset", "speed")
# The statuses in which a job takes a command, as far as a client can meet them here.
_TAKES = {
    "pause": ("running", "ready"),
    "resume": ("paused", "standby"),
    "complete": ("ready", "standby"),
    "cancel": ("running", "paused", "ready", "standby", "waiting", "pending"),
    "finalize": ("pending",),
    "dismiss": ("concluded",),
    "set-speed": ("running", "paused", "ready", "standby"),
}


class _Jobs:
    """The jobs, by id; the state keeps them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._pivots: dict[str, Callable[[], None]] = {}
        self.completing: set[str] = set()  # those to complete as soon as they are resumed

    def find(self, name: str, verb: str) -> dict[str, Any]:
        """Return a job that takes a command.

        Raises:
            CommandError: There is no such job, or it takes no such command now.
        """
        job = self.state.jobs.get(name)
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
        if name not in self.state.jobs:
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
        waits: bool = False,
        auto_dismiss: bool = True,
    ) -> None:
        """Start a job.

        Args:
            name: Its id.
            kind: Its type.
            size: The bytes that it copies.
            options: The command's arguments, of which some are common to all jobs.
            pivot: Function to call when it has completed.
            waits: Whether it waits for a command when everything is copied.
            auto_dismiss: Whether it goes when it has concluded, if the options do not say.

        Raises:
            CommandError: There is such a job.
        """
        if name in self.state.jobs:
            raise CommandError(f"Job ID '{name}' already in use")
        self.state.jobs[name] = {
            "type": kind, "device": name, "len": size, "offset": size,
            "speed": options.get("speed", 0), "busy": False, "paused": False, "io-status": "ok",
            "ready": False, "status": "created",
            "auto-finalize": options.get("auto_finalize", True),
            "auto-dismiss": options.get("auto_dismiss", auto_dismiss),
        }  # fmt: skip
        if pivot is not None:
            self._pivots[name] = pivot
        self.enter(name, "created")
        self.enter(name, "running")
        self.state.later(0, self.get_ready if waits else self.finish, name)

    def enter(self, name: str, status: str) -> None:
        """Give a job a status."""
        job = self.state.jobs[name]
        self.state.jobs[name] = {
            **job,
            "status": status,
            "ready": job["ready"] or status == "ready",
            "paused": status in ("paused", "standby"),
        }
        self.state.emit("JOB_STATUS_CHANGE", {"status": status, "id": name})

    def get_ready(self, name: str) -> None:
        """Let a job wait, with everything copied, for the command to complete it."""
        if self.state.jobs.get(name, {}).get("status") == "running":
            self.enter(name, "ready")
            self.tell(name, "BLOCK_JOB_READY")

    def complete(self, name: str) -> None:
        """Complete a job that is ready; one that is paused, as soon as it is resumed."""
        if self.state.jobs[name]["status"] == "standby":
            self.completing.add(name)
        else:
            self.state.later(0, self.finish, name)

    def finish(self, name: str) -> None:
        """End the work of a job; it completes unless a client wants to finalize it."""
        if self.state.jobs.get(name, {}).get("status") not in ("running", "ready"):
            return
        self.enter(name, "waiting")
        self.enter(name, "pending")
        if self.state.jobs[name]["auto-finalize"]:
            self.finalize(name)
        else:
            self.state.emit(
                "BLOCK_JOB_PENDING", {"type": self.state.jobs[name]["type"], "id": name}
            )

    def finalize(self, name: str) -> None:
        """Complete a job."""
        pivot = self._pivots.pop(name, None)
        if pivot is not None:
            pivot()
        self.tell(name, "BLOCK_JOB_COMPLETED")
        self._conclude(name)

    def cancel(self, name: str, *, force: bool) -> None:
        """Cancel a job; one that is ready completes, without its pivot, unless forced."""
        job = self.state.jobs.get(name)
        if job is None:
            return
        self._pivots.pop(name, None)
        if job["ready"] and not force:
            self.finish(name)
            return
        self.enter(name, "aborting")
        self.tell(name, "BLOCK_JOB_CANCELLED")
        self._conclude(name)

    def tell(self, name: str, event: str) -> None:
        """Send an event about a block job; other jobs have none."""
        job = self.state.jobs[name]
        if job["type"] != "create":
            self.state.emit(event, {key: job[key] for key in _EVENT})

    def dismiss(self, name: str) -> None:
        """Forget a job that has concluded."""
        self.completing.discard(name)
        self.enter(name, "null")
        del self.state.jobs[name]

    def _conclude(self, name: str) -> None:
        self.enter(name, "concluded")
        if self.state.jobs[name]["auto-dismiss"]:
            self.dismiss(name)


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    jobs = _Jobs(state)

    def mirror(device: str, target: str = "", job_id: str | None = None, **options: Any) -> None:
        source = node_of(state, device)
        new = options.get("node_name") if target not in state.nodes else target
        if source == new:
            raise CommandError("Can't mirror node into itself")

        def pivot() -> None:
            if new in state.nodes:
                replace_node(state, options.get("replaces") or source, str(new))

        size = size_of(state, source)
        jobs.start(job_id or device, "mirror", size, options, pivot=pivot, waits=True)

    registry.command("blockdev-mirror")(mirror)
    registry.command("drive-mirror")(mirror)

    @registry.command("block-commit")
    def block_commit(
        device: str,
        job_id: str | None = None,
        base_node: str | None = None,
        top_node: str | None = None,
        **options: Any,
    ) -> None:
        active = node_of(state, device)
        top = active if top_node is None else node_of(state, top_node)
        chain = backing_chain(state, top)
        base = chain[-1] if base_node is None else node_of(state, base_node)
        if base == top:
            raise CommandError("cannot commit an image into itself")
        if base not in chain:
            raise CommandError(f"'{base}' is not in this backing file chain")

        def pivot() -> None:
            over = overlay_of(state, top)
            if base not in backing_chain(state, top):
                return  # another command has changed the chain
            if top == active or over is None:
                replace_node(state, top, base)
            else:
                state.nodes[over] = {**state.nodes[over], "backing": base}

        waits = top == active
        size = size_of(state, top)
        jobs.start(job_id or device, "commit", size, options, pivot=pivot, waits=waits)

    @registry.command("block-stream")
    def block_stream(
        device: str, job_id: str | None = None, base_node: str | None = None, **options: Any
    ) -> None:
        node = node_of(state, device)
        base = None if base_node is None else node_of(state, base_node)
        if base is not None and base not in backing_chain(state, node)[1:]:
            raise CommandError(f"Node '{base}' is not a backing image of '{node}'")

        def pivot() -> None:
            if base is not None and base not in backing_chain(state, node)[1:]:
                return  # another command has changed the chain
            one = {key: value for key, value in state.nodes[node].items() if key != "backing"}
            state.nodes[node] = one if base is None else {**one, "backing": base}

        jobs.start(job_id or device, "stream", size_of(state, node), options, pivot=pivot)

    def backup(device: str, job_id: str | None = None, **options: Any) -> None:
        size = size_of(state, node_of(state, device))
        jobs.start(job_id or device, "backup", size, options)

    registry.command("blockdev-backup")(backup)
    registry.command("drive-backup")(backup)

    @registry.command("blockdev-create")
    def blockdev_create(job_id: str, options: dict[str, Any]) -> None:
        jobs.start(job_id, "create", 1, {}, auto_dismiss=False)

    @registry.command("block-job-complete")
    def block_job_complete(device: str) -> None:
        jobs.find_block_job(device, "complete")
        jobs.complete(device)

    @registry.command("job-complete")
    def job_complete(id: str) -> None:  # noqa: A002 -- the schema's name
        jobs.find(id, "complete")
        jobs.complete(id)

    @registry.command("block-job-cancel")
    def block_job_cancel(device: str, force: bool = False) -> None:
        jobs.find_block_job(device, "cancel")
        state.later(0, lambda: jobs.cancel(device, force=force))

    @registry.command("job-cancel")
    def job_cancel(id: str) -> None:  # noqa: A002
        jobs.find(id, "cancel")
        state.later(0, lambda: jobs.cancel(id, force=True))

    @registry.command("block-job-finalize")
    def block_job_finalize(id: str) -> None:  # noqa: A002
        jobs.find_block_job(id, "finalize")
        jobs.finalize(id)

    @registry.command("job-finalize")
    def job_finalize(id: str) -> None:  # noqa: A002
        jobs.find(id, "finalize")
        jobs.finalize(id)

    @registry.command("block-job-dismiss")
    def block_job_dismiss(id: str) -> None:  # noqa: A002
        jobs.find_block_job(id, "dismiss")
        jobs.dismiss(id)

    @registry.command("job-dismiss")
    def job_dismiss(id: str) -> None:  # noqa: A002
        jobs.find(id, "dismiss")
        jobs.dismiss(id)

    def pause(name: str) -> None:
        jobs.enter(name, "standby" if state.jobs[name]["ready"] else "paused")

    def go_on(name: str) -> None:
        ready = state.jobs[name]["ready"]
        jobs.enter(name, "ready" if ready else "running")
        if not ready or name in jobs.completing:
            state.later(0, jobs.finish, name)

    @registry.command("block-job-pause")
    def block_job_pause(device: str) -> None:
        jobs.find_block_job(device, "pause")
        pause(device)

    @registry.command("job-pause")
    def job_pause(id: str) -> None:  # noqa: A002
        jobs.find(id, "pause")
        pause(id)

    @registry.command("block-job-resume")
    def block_job_resume(device: str) -> None:
        jobs.find_block_job(device, "resume")
        go_on(device)

    @registry.command("job-resume")
    def job_resume(id: str) -> None:  # noqa: A002
        jobs.find(id, "resume")
        go_on(id)

    @registry.command("block-job-set-speed")
    def block_job_set_speed(device: str, speed: int) -> None:
        job = jobs.find_block_job(device, "set-speed")
        state.jobs[device] = {**job, "speed": speed}

    @registry.command("query-block-jobs")
    def query_block_jobs() -> Any:
        return [one for one in state.jobs.values() if one["type"] != "create"]

    @registry.command("query-jobs")
    def query_jobs() -> Any:
        return [
            {
                "id": name, "type": one["type"], "status": one["status"],
                "current-progress": one["offset"], "total-progress": one["len"],
            }
            for name, one in state.jobs.items()
        ]  # fmt: skip
