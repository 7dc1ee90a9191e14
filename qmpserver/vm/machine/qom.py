"""The QOM tree of the machine, as `qom-list` and `qom-get` show it, and the lookup of paths.

The tree is built for each command from the machine's state; it stores no state of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.vm.accel.options import NAMES
from qmpserver.vm.machine.options import MACHINE_TYPES, PC_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpserver.vm.machine.machine import Machine

MACHINE_TYPE = "qmpserver"
RAM_ID = "ram"


class NotFoundError(LookupError):
    """No object has this path."""


class AmbiguousError(LookupError):
    """Several objects have this partial path."""


class Object:
    """An object: its type, its properties as `name: (type, value)`, and its children."""

    __slots__ = ("children", "path", "properties", "type")

    def __init__(
        self,
        type: str = "container",  # noqa: A002 -- QEMU's word
        properties: Mapping[str, tuple[str, object]] | None = None,
        children: Mapping[str, Object] | None = None,
    ) -> None:
        self.type = type
        self.properties = properties or {}
        self.children = children or {}
        self._place("")

    def _place(self, path: str) -> None:
        self.path = path
        for name, child in self.children.items():
            child._place(f"{path}/{name}")

    def property_types(self) -> Iterator[tuple[str, str]]:
        """Yield the name and type of each property, children included."""
        yield "type", "string"
        for name, (type_, _) in self.properties.items():
            yield name, type_
        for name, child in self.children.items():
            yield name, f"child<{child.type}>"

    def get(self, name: str) -> Any:
        """Return a property's value; the value of a child is its path.

        Raises:
            KeyError: The object has no property of this name.
        """
        if name == "type":
            return self.type
        if name in self.children:
            return self.children[name].path
        return self.properties[name][1]

    def resolve(self, path: str) -> Object:
        """Return the object at an absolute path, or at a partial path that begins anywhere.

        Raises:
            NotFoundError: No object has this path.
            AmbiguousError: Several objects have this partial path.
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
        current: Object | None = self
        for name in names:
            current = current.children.get(name) if current else None
        return current

    def _all(self) -> Iterator[Object]:
        yield self
        for child in self.children.values():
            yield from child._all()


def vcpu_path(cpu_index: int) -> str:
    """Return the QOM path of a vCPU."""
    return f"/machine/unattached/{_device(cpu_index)}"


def _device(cpu_index: int) -> str:
    return f"device[{cpu_index}]"


class CpuTopology(NamedTuple):
    """The position of a vCPU."""

    core_id: int
    thread_id: int
    socket_id: int


def cpu_topology(cpu_index: int) -> CpuTopology:
    """Return the position of a vCPU: each is a core of the only socket."""
    return CpuTopology(cpu_index, thread_id=0, socket_id=0)


def cpu_type(accel: str) -> str:
    """Return the QOM type of the vCPUs; on KVM they have the host's model."""
    return f"{'host' if accel == 'kvm' else accel}-x86_64-cpu"


def object_types() -> dict[str, tuple[str | None, bool]]:
    """Return each type's parent, and whether it is abstract; parents come first."""
    types: dict[str, tuple[str | None, bool]] = {
        "object": (None, True),
        "container": ("object", False),
        "accel": ("object", True),
        "machine": ("object", True),
        "generic-pc-machine": ("machine", True),
        "device": ("object", True),
        "isa-device": ("device", True),
        "isa-serial": ("isa-device", False),
        "cpu": ("device", True),
        "x86_64-cpu": ("cpu", True),
        "memory-backend": ("object", True),
        "memory-backend-file": ("memory-backend", False),
        "memory-backend-memfd": ("memory-backend", False),
        "memory-backend-ram": ("memory-backend", False),
        "secret": ("object", False),
    }
    types |= {f"{name}-accel": ("accel", False) for name in NAMES}
    types |= {
        f"{name}-machine": ("generic-pc-machine" if name in PC_TYPES else "machine", False)
        for name in MACHINE_TYPES
    }
    types |= {cpu_type(name): ("x86_64-cpu", False) for name in NAMES}
    return types


# The properties that a type adds to those of the type above it, each with its own type.
_MEMORY_PROPERTY = {"memory": "MemorySizeConfiguration"}
_QDEV = {"realized": "bool", "hotplugged": "bool", "hotpluggable": "bool"}
_TOPOLOGY = {name.replace("_", "-"): "int32" for name in CpuTopology._fields}
_PROPERTIES: Mapping[str, Mapping[str, str]] = {
    "object": {"type": "string"},
    "machine": _MEMORY_PROPERTY,
    "device": _QDEV,
    "isa-serial": {"chardev": "str", "index": "uint32"},
    "x86_64-cpu": _TOPOLOGY,
    "memory-backend": {"size": "int", "share": "bool"},
    "memory-backend-file": {"mem-path": "string"},
    "secret": {"format": "QCryptoSecretFormat", "file": "string"},
}


def type_properties(name: str, below: str | None = None) -> dict[str, str]:
    """Return the properties of a type and their types; those of `below` and above are left out.

    Raises:
        KeyError: There is no such type.
    """
    found: dict[str, str] = {}
    types, current = object_types(), name
    while current != below:
        found = {**_PROPERTIES.get(current, {}), **found}
        parent = types[current][0]
        if parent is None:
            break
        current = parent
    return found


def is_device(name: str) -> bool:
    """Return whether objects of a type are devices; no object is of an abstract type.

    Raises:
        KeyError: There is no such type.
    """
    types = object_types()
    current: str | None = None if types[name][1] else name
    while current not in (None, "device"):
        assert current is not None
        current = types[current][0]
    return current is not None


def _user_object(type_: str, values: Mapping[str, object]) -> Object:
    types = type_properties(type_)
    return Object(type_, {name: (types[name], value) for name, value in values.items()})


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
    memory = {"memory": (_MEMORY_PROPERTY["memory"], {"size": machine.ram.size})}
    machine_object = Object(f"{MACHINE_TYPE}-machine", memory, parts)
    objects = {name: _user_object(*one) for name, one in machine.objects.items()}
    return Object(children={"objects": Object(children=objects), "machine": machine_object})


def _vcpu_properties(index: int) -> dict[str, tuple[str, object]]:
    topology = {
        name.replace("_", "-"): number for name, number in cpu_topology(index)._asdict().items()
    }
    values: dict[str, object] = {"realized": True, "hotplugged": False, "hotpluggable": False}
    types = {**_QDEV, **_TOPOLOGY}
    return {name: (types[name], value) for name, value in {**values, **topology}.items()}
