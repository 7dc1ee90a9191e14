"""Block nodes, the devices that use them, and block jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.values import as_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

SIZE = 1 << 30
# Members of a node's options that can name other nodes.
_CHILDREN = ("file", "backing", "image", "target")


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("blockdev-add")
    def blockdev_add(driver: str, **options: Any) -> None:
        options = {name.replace("_", "-"): value for name, value in options.items()}
        name = options.get("node-name")
        if not isinstance(name, str):
            raise CommandError("'node-name' must be specified for the root node")
        if name in state.nodes:
            raise CommandError(f"Duplicate nodes with node-name='{name}'")
        for child in _CHILDREN:
            if isinstance(value := options.get(child), str) and value not in state.nodes:
                raise CommandError(f"Cannot find device='{value}' nor node-name='{value}'")
        state.nodes[name] = {"driver": driver, **options}

    @registry.command("blockdev-del")
    def blockdev_del(node_name: str) -> None:
        if node_name not in state.nodes:
            raise CommandError(f"Failed to find node with node-name='{node_name}'")
        parents = [one.get(child) for one in state.nodes.values() for child in _CHILDREN]
        if node_name in parents:
            raise CommandError(f"Block device {node_name} is in use")
        if any(one.get("drive") == node_name for one in state.devices.values()):
            raise CommandError(f"Node {node_name} is in use")
        del state.nodes[node_name]

    @registry.command("block_resize")
    def block_resize(size: int, device: str | None = None, node_name: str | None = None) -> None:
        name = _drive(state, device) if device else node_name
        if name is None or name not in state.nodes:
            raise CommandError(
                f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'"
            )
        state.nodes[name]["size"] = size

    @registry.command("query-named-block-nodes")
    def query_named_block_nodes(flat: bool = False) -> Any:
        return [_shown(state, name) for name in reversed(state.nodes)]

    @registry.command("query-block")
    def query_block(flat: bool = False) -> Any:
        return [
            {
                "device": "",
                "qdev": f"/machine/peripheral/{name}" if one["named"] else "",
                "type": "unknown",
                "locked": False,
                "removable": False,
                "io-status": "ok",
                "inserted": _shown(state, one["drive"]),
            }
            for name, one in state.devices.items()
            if one.get("drive") in state.nodes
        ]

    jobs = state.jobs

    def ended(name: str, event: str) -> None:
        job = jobs.pop(name, None)
        if job is not None:
            state.emit(event, {key: job[key] for key in _JOB_EVENT})

    def ready(name: str) -> None:
        job = jobs.get(name)
        if job is not None:
            job |= {"ready": True, "status": "ready"}
            state.emit("BLOCK_JOB_READY", {key: job[key] for key in _JOB_EVENT})

    def start(kind: str, then: Callable[..., None], *more: Any) -> Callable[..., None]:
        def handler(device: str = "", job_id: str | None = None, speed: int = 0, **_: Any) -> None:
            name = job_id or device
            if name in jobs:
                raise CommandError(f"Job ID '{name}' already in use")
            _node(state, device)
            size = state.nodes[device].get("size", SIZE)
            jobs[name] = {
                "type": kind, "device": name, "len": size, "offset": size, "speed": speed,
                "busy": False, "paused": False, "io-status": "ok", "ready": False,
                "status": "running", "auto-finalize": True, "auto-dismiss": True,
            }  # fmt: skip
            state.later(0, then, name, *more)

        return handler

    for command, kind in _MIRRORS.items():
        registry.command(command)(start(kind, ready))
    for command, kind in _PLAIN_JOBS.items():
        registry.command(command)(start(kind, ended, "BLOCK_JOB_COMPLETED"))

    def job(name: str) -> dict[str, Any]:
        if name not in jobs:
            raise CommandError(f"Block job '{name}' not found", "DeviceNotActive")
        return jobs[name]

    @registry.command("block-job-complete")
    def block_job_complete(device: str) -> None:
        if not job(device)["ready"]:
            raise CommandError(
                f"Job '{device}' in state 'running' cannot accept command verb 'complete'"
            )
        state.later(0, ended, device, "BLOCK_JOB_COMPLETED")

    @registry.command("block-job-cancel")
    def block_job_cancel(device: str, force: bool = False) -> None:
        done = job(device)["ready"] and not force
        state.later(0, ended, device, "BLOCK_JOB_COMPLETED" if done else "BLOCK_JOB_CANCELLED")

    @registry.command("query-block-jobs")
    def query_block_jobs() -> Any:
        return list(jobs.values())

    @registry.command("query-jobs")
    def query_jobs() -> Any:
        return [
            {
                "id": name, "type": one["type"], "status": one["status"],
                "current-progress": one["offset"], "total-progress": one["len"],
            }
            for name, one in jobs.items()
        ]  # fmt: skip


_MIRRORS = {"blockdev-mirror": "mirror", "drive-mirror": "mirror"}
_PLAIN_JOBS = {
    "block-stream": "stream",
    "block-commit": "commit",
    "blockdev-backup": "backup",
    "drive-backup": "backup",
}
_JOB_EVENT = ("type", "device", "len", "offset", "speed")


def _node(state: State, name: str | None) -> dict[str, Any]:
    if name is None or name not in state.nodes:
        raise CommandError(f"Cannot find device='{name}' nor node-name='{name}'")
    return state.nodes[name]


def _drive(state: State, device: str) -> str:
    name: str = state.devices.get(device, {}).get("drive", device)
    return name


def _shown(state: State, name: str) -> dict[str, Any]:
    node = state.nodes[name]
    below = node.get("file")
    deepest = state.nodes.get(below, node) if isinstance(below, str) else as_object(below) or node
    filename = deepest.get("filename", f"{deepest.get('driver', 'null-co')}://")
    size = node.get("size", deepest.get("size", SIZE))
    cache = as_object(node.get("cache"))
    return {
        "node-name": name,
        "drv": node["driver"],
        "ro": node.get("read-only", False),
        "file": filename,
        "encrypted": False,
        "detect_zeroes": node.get("detect-zeroes", "off"),
        "image": {"filename": filename, "format": node["driver"], "virtual-size": size},
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
    }
