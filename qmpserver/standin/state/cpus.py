"""Commands about vCPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    cpus = state.cpus

    @registry.command("query-cpus-fast")
    def query_cpus_fast() -> Any:
        return [
            {
                "cpu-index": index,
                "qom-path": path,
                "thread-id": state.threads.id(f"CPU {index}/KVM"),
                "props": cpus.properties(index),
                "target": "x86_64",
                "qom-type": cpus.type,
            }
            for index, path in sorted(cpus.paths.items())
        ]

    @registry.command("query-hotpluggable-cpus")
    def query_hotpluggable_cpus() -> Any:
        return [
            {
                "type": cpus.type,
                "vcpus-count": 1,
                "props": cpus.properties(index),
                **({"qom-path": cpus.paths[index]} if index in cpus.paths else {}),
            }
            for index in reversed(range(cpus.places.number))
        ]
