"""Objects that users create: their checks and their users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.backends.objectchecks import check
from qmpserver.standin.values import check_id

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("object-add")
    def object_add(id: str, qom_type: str, **properties: Any) -> None:  # noqa: A002
        check_id(id)
        if id in state.objects:
            raise CommandError(
                f"attempt to add duplicate property '{id}' to object (type 'container')"
            )
        made = {name.replace("_", "-"): value for name, value in properties.items()}
        check(state, id, qom_type, made)
        state.objects[id] = {"qom-type": qom_type, **made}

    def refusal(name: str, kind: str) -> str | None:
        """Return why an object cannot be deleted; None if it can be."""
        words = None
        if kind == "can-bus":
            return f"Deleting CAN bus device '{name}' is not supported"
        if kind.startswith("memory-backend-") and is_mapped(state, name):
            words = f"Cannot delete host memory backend '{name}' which is mapped"
        elif kind.startswith("cryptodev-") and is_used(state, "cryptodev", name):
            words = f"Cannot delete cryptodev backend '{name}' that is in use"
        elif kind == "throttle-group" and any(
            one.get("throttle-group") == name for one in state.nodes.values()
        ):
            words = f"Cannot delete throttle group '{name}' with active references"
        if words is None or state.release.names_users:
            return words
        return f"object '{name}' is in use, can not be deleted"

    @registry.command("object-del")
    def object_del(id: str) -> None:  # noqa: A002
        if id not in state.objects:
            raise CommandError(f"object '{id}' not found")
        words = refusal(id, state.objects[id]["qom-type"])
        if words is not None:
            raise CommandError(words)
        del state.objects[id]
        state.threads.end(f"IO {id}")


def is_mapped(state: State, name: str) -> bool:
    """Return whether a device or a NUMA node has a memory backend."""
    nodes = state.numa.values()
    return is_used(state, "memdev", name) or any(one.get("memdev") == name for one in nodes)


def is_used(state: State, key: str, name: str) -> bool:
    """Return whether a device has a backend as a property."""
    return any(one.get(key) == name for one in state.devices.values())
