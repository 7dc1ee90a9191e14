"""The tree of objects that QMP shows of the machine, and how paths in it are found.

It is made anew for each look: it holds nothing that is not told elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpserver.vm.commands.types import CpuInstanceProperties
    from qmpserver.vm.machine.machine import Machine

MACHINE_TYPE = "qmpserver"
RAM_ID = "ram"


class NotFoundError(LookupError):
    """No object has this path."""


class AmbiguousError(LookupError):
    """Several objects have this partial path."""


@dataclass(slots=True)
class Object:
    """An object: its type, its properties as ``name: (type, value)``, and the objects below it."""

    type: str = "container"
    properties: Mapping[str, tuple[str, object]] = field(default_factory=dict)
    children: Mapping[str, Object] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        self._place("")

    def _place(self, path: str) -> None:
        self.path = path
        for name, child in self.children.items():
            child._place(f"{path}/{name}")

    def property_types(self) -> Iterator[tuple[str, str]]:
        """Yield each property's name and type."""
        yield "type", "string"
        for name, (type_, _) in self.properties.items():
            yield name, type_
        for name, child in self.children.items():
            yield name, f"child<{child.type}>"

    def get(self, name: str) -> Any:
        """Return a property's value, a child's being its path.

        Raises:
            KeyError: There is none of this name.
        """
        if name == "type":
            return self.type
        if name in self.children:
            return self.children[name].path
        return self.properties[name][1]

    def resolve(self, path: str) -> Object:
        """Return the object at an absolute path, or at one that begins anywhere in the tree.

        Raises:
            NotFoundError: There is none.
            AmbiguousError: There are several, for a path that begins anywhere.
        """
        names = [name for name in path.split("/") if name]
        starts = [self] if path.startswith("/") else self._all()
        found = [end for start in starts if (end := start._descend(names)) is not None]
        if not found:
            raise NotFoundError(path)
        if len(found) > 1:
            raise AmbiguousError(path)
        return found[0]

    def _descend(self, names: list[str]) -> Object | None:
        here: Object | None = self
        for name in names:
            here = here.children.get(name) if here else None
        return here

    def _all(self) -> Iterator[Object]:
        yield self
        for child in self.children.values():
            yield from child._all()


def vcpu_path(cpu_index: int) -> str:
    """Return the path by which QMP names a vCPU."""
    return f"/machine/unattached/{_device(cpu_index)}"


def _device(cpu_index: int) -> str:
    return f"device[{cpu_index}]"


def place(cpu_index: int) -> CpuInstanceProperties:
    """Return where a vCPU sits: each is a core of the one socket."""
    return {"core-id": cpu_index, "thread-id": 0, "socket-id": 0}


def cpu_type(accel: str) -> str:
    """Return the type of the vCPUs: KVM's have all that the host has."""
    return f"{'host' if accel == 'kvm' else accel}-x86_64-cpu"


def machine_tree(machine: Machine) -> Object:
    """Return the root of the tree."""
    vcpu = cpu_type(machine.accel.name)
    vcpus = {
        _device(index): Object(vcpu, _vcpu_properties(index))
        for index in range(machine.accel.engine.vcpus)
    }
    parts = {
        "unattached": Object(children=vcpus),
        "peripheral": Object(),
        "peripheral-anon": Object(),
    }
    memory = {"memory": ("MemorySizeConfiguration", {"size": machine.ram.size})}
    whole = Object(f"{MACHINE_TYPE}-machine", memory, parts)
    return Object(children={"objects": Object(), "machine": whole})


def _vcpu_properties(index: int) -> dict[str, tuple[str, object]]:
    qdev: dict[str, tuple[str, object]] = {
        "realized": ("bool", True),
        "hotplugged": ("bool", False),
        "hotpluggable": ("bool", False),
    }
    return qdev | {name: ("int32", value) for name, value in place(index).items()}
