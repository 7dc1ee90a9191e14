"""Queries about backends of devices: I/O threads, memory, audio backends, TPMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

IOTHREAD_POLL_NS = 32768


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("query-iothreads")
    def query_iothreads() -> Any:
        return [
            {
                "id": name,
                "thread-id": state.threads.id(f"IO {name}"),
                "poll-max-ns": IOTHREAD_POLL_NS,
                "poll-grow": state.release.poll_factor,
                "poll-shrink": state.release.poll_factor,
                "poll-weight": 3,
                "aio-max-batch": 0,
                **state.objects[name],
            }
            for name in _of_type(state, "iothread")
        ]

    @registry.command("query-audiodevs")
    def query_audiodevs() -> Any:
        return list(state.audiodevs.values())

    @registry.command("query-tpm")
    def query_tpm() -> Any:
        models = {one["tpmdev"]: one["driver"] for one in state.devices.values() if "tpmdev" in one}
        return [
            {"id": name, "model": models[name], "options": options}
            for name, options in state.tpms.items()
            if name in models
        ]

    @registry.command("query-memdev")
    def query_memdev() -> Any:
        memory = {name: state.objects[name] for name in _of_type(state, "memory-backend-")}
        if not (state.machine.empty or any("memdev" in one for one in state.numa.values())):
            memory["pc.ram"] = {"size": state.machine.memory}
        return [
            {
                "id": name,
                "merge": True,
                "dump": True,
                "policy": "default",
                "reserve": True,
                "share": False,
                "prealloc": False,
                "host-nodes": [],
                **one,
            }
            for name, one in memory.items()
        ]


def _of_type(state: State, prefix: str) -> list[str]:
    return [name for name, one in state.objects.items() if one["qom-type"].startswith(prefix)]
