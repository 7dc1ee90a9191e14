"""Commands of jobs: those that copy block nodes, and those that create images."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import creating, permissions
from qmpserver.standin.state.block.bitmaps import bitmaps_of
from qmpserver.standin.state.block.graph import (
    backing_chain,
    children_of,
    node_of,
    overlay_of,
    replace_node,
    set_child,
    size_of,
)
from qmpserver.standin.state.block.joblist import check_speed, is_block_job
from qmpserver.standin.state.block.nodes import drop_unused, set_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    jobs = state.job_list

    def name_of(node: str) -> str:
        """Return the id of a job on a node that is given none: the drive's, of which it has one."""
        return next((name for name, one in state.drives.items() if one["node"] == node), "")

    def mirror(
        source: str,
        target: str,
        job_id: str | None = None,
        *,
        below: str | None = None,
        end: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        if target == source:
            raise CommandError("Can't mirror node into itself")
        if options.get("sync") in ("incremental", "bitmap"):
            raise CommandError(f"Sync mode '{options['sync']}' not supported")
        jobs.check_free(target, "blockdev-mirror")

        def pivot() -> None:
            if target not in state.nodes or source not in state.nodes:
                return  # another command has deleted it
            if below in state.nodes:
                creating.set_backing(state, target, below)
            replaced = options.get("replaces") or source
            replace_node(state, replaced, target)
            drop_unused(state, replaced)

        size = 0 if options.get("sync") == "none" else size_of(state, source)
        name = name_of(source) if job_id is None else job_id
        jobs.start(
            name, "mirror", size, options, pivot=pivot, end=end, waits=True,
            source=source, target=target, check=partial(permissions.check, state, target),
        )  # fmt: skip

    def check_root(node: str) -> None:
        if any(True for _ in jobs.users(node)):
            raise CommandError("Need a root block node")

    @registry.command("blockdev-mirror")
    def blockdev_mirror(device: str, target: str, **options: Any) -> None:
        source = node_of(state, device)
        new = node_of(state, target)
        check_root(source)
        mirror(source, new, **options)

    @registry.command("drive-mirror")
    def drive_mirror(device: str, target: str, **options: Any) -> None:
        source = node_of(state, device)
        check_root(source)
        new, below = add_target(source, target, options)
        end = partial(drop_unused, state, new)
        with dropping(new):
            mirror(source, new, below=below, end=end, **options)

    def add_target(source: str, filename: str, options: dict[str, Any]) -> tuple[str, str | None]:
        """Create the image that a job copies a node to, and return its node.

        Args:
            source: The node.
            filename: The name of the image.
            options: The command's arguments; those about the image are taken out.

        Returns:
            The new node, and the one whose image is its backing file, or None.
        """
        backing = source if options.get("sync") == "none" else None
        if options.get("sync") == "top":
            backing = children_of(state, source).get("backing")
        exists = options.pop("mode", "absolute-paths") == "existing"
        driver = options.pop("format", None if exists else state.nodes[source]["driver"])
        new = creating.add_image(
            state, filename, driver, source,
            backing=backing, exists=exists, name=options.pop("node_name", None),
        )  # fmt: skip
        return new, None if exists else backing

    @contextlib.contextmanager
    def dropping(node: str) -> Iterator[None]:
        """Delete a node that nothing uses if the block raises."""
        try:
            yield
        except CommandError:
            drop_unused(state, node)
            raise

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
        if top not in backing_chain(state, active):
            raise CommandError(f"'{top}' is not in this backing file chain")
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
                set_read_only(state, base, False)
            else:
                creating.set_backing(state, over, base)
            drop_unused(state, top)

        waits = top == active
        size = size_of(state, top)
        name = name_of(active) if job_id is None else job_id
        jobs.start(name, "commit", size, options, pivot=pivot, waits=waits, source=top, target=base)

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
            below = children_of(state, node).get("backing")
            creating.set_backing(state, node, base)
            drop_unused(state, below)

        jobs.check_free(node, "block-stream")
        has_backing = isinstance(state.nodes[node].get("backing"), str)
        size = size_of(state, node) if has_backing else 0
        name = name_of(node) if job_id is None else job_id
        jobs.start(name, "stream", size, options, pivot=pivot, source=node)

    def backup(
        source: str,
        target: str,
        job_id: str | None = None,
        sync: str = "full",
        bitmap: str | None = None,
        end: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        if target == source:
            raise CommandError("Source and target cannot be the same")
        if bitmap is None and sync in ("incremental", "bitmap"):
            raise CommandError(f"must provide a valid bitmap name for '{sync}' sync mode")
        if bitmap is not None and bitmap not in bitmaps_of(state, source):
            raise CommandError(f"Bitmap '{bitmap}' could not be found")
        if any(role == "source" for _, role in jobs.users(target)):
            words = "block device is in use by block job: backup"
            raise CommandError(f"Node '{target}' is busy: {words}")
        jobs.check_free(target, "blockdev-backup")
        size = size_of(state, source)
        name = name_of(source) if job_id is None else job_id
        ends = sync != "none"
        jobs.start(name, "backup", size, options, ends=ends, end=end, source=source, target=target)

    def check_backup(device: str, source: str) -> None:
        if device != source and ("backup", "source") in jobs.users(source):
            words = "block device is in use by block job: backup"
            raise CommandError(f"Node '{device}' is busy: {words}")
        jobs.check_free(source, "blockdev-backup")

    @registry.command("blockdev-backup")
    def blockdev_backup(device: str, target: str, **options: Any) -> None:
        source = node_of(state, device)
        new = node_of(state, target)
        check_backup(device, source)
        backup(source, new, **options)

    @registry.command("drive-backup")
    def drive_backup(device: str, target: str, **options: Any) -> None:
        source = node_of(state, device)
        check_backup(device, source)
        new, below = add_target(source, target, options)
        with dropping(new):
            if state.machine.images and size_of(state, new) != size_of(state, source):
                raise CommandError("Source and target image have different sizes")
            if below == source:
                set_child(state, new, "backing", source)
            backup(source, new, end=partial(drop_unused, state, new), **options)

    @registry.command("blockdev-create")
    def blockdev_create(job_id: str, options: dict[str, Any]) -> None:
        creating.check_driver(options["driver"])
        work = partial(creating.create, state, options)
        jobs.start(job_id, "create", 1, {}, auto_dismiss=False, work=work)

    def cancel(name: str) -> None:
        state.later(0, lambda: jobs.cancel(name, force=True))

    verbs: dict[str, Callable[[str], None]] = {
        "cancel": cancel,
        "complete": jobs.complete,
        "dismiss": jobs.dismiss,
        "finalize": jobs.finalize,
        "pause": jobs.pause,
        "resume": jobs.resume,
    }
    for verb, do in verbs.items():
        registry.command(f"job-{verb}")(_handler(verb, jobs.find, do))
        if verb != "cancel":
            registry.command(f"block-job-{verb}")(_handler(verb, jobs.find_block_job, do))

    @registry.command("block-job-cancel")
    def block_job_cancel(device: str, force: bool = False) -> None:
        job = jobs.find_block_job(device, "cancel")
        if job["paused"] and not force:
            raise CommandError(f"The block job for device '{device}' is currently paused")
        state.later(0, lambda: jobs.cancel(device, force=force))

    @registry.command("block-job-set-speed")
    def block_job_set_speed(device: str, speed: int) -> None:
        job = jobs.find_block_job(device, "set-speed")
        check_speed(speed)
        state.jobs[device] = {**job, "speed": speed}

    @registry.command("query-block-jobs")
    def query_block_jobs() -> Any:
        return [one for one in reversed([*state.jobs.values()]) if is_block_job(one)]

    @registry.command("query-jobs")
    def query_jobs() -> Any:
        return [
            {
                "id": name, "type": one["type"], "status": one["status"],
                "current-progress": one["offset"], "total-progress": one["len"],
                **({"error": one["error"]} if "error" in one else {}),
            }
            for name, one in reversed([*state.jobs.items()])
        ]  # fmt: skip


def _handler(
    verb: str, find: Callable[[str, str], object], do: Callable[[str], None]
) -> Callable[..., None]:
    """Return a handler that finds a job for a verb, by its id or its device, and acts on it."""

    def handle(id: str = "", device: str = "") -> None:  # noqa: A002 -- the schema's name
        find(id or device, verb)
        do(id or device)

    return handle
