"""Handlers of `schema/qom.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.vm.machine.qom import (
    AmbiguousError,
    NotFoundError,
    Object,
    machine_tree,
    object_types,
    type_properties,
)

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.commands.types import ObjectPropertyInfo, ObjectTypeInfo
    from qmpserver.vm.machine.machine import Machine


def register(registry: Registry, machine: Machine) -> None:
    """Bind the commands of this file."""

    def find(path: str) -> Object:
        try:
            return machine_tree(machine).resolve(path)
        except NotFoundError:
            raise CommandError(f"Device '{path}' not found", "DeviceNotFound") from None

    @registry.command("qom-list")
    def qom_list(path: str) -> list[ObjectPropertyInfo]:
        try:
            found = find(path)
        except AmbiguousError:
            raise CommandError(f"Path '{path}' is ambiguous") from None
        return [{"name": name, "type": type_} for name, type_ in found.property_types()]

    @registry.command("qom-list-types")
    def qom_list_types(
        implements: str | None = None, abstract: bool = False
    ) -> list[ObjectTypeInfo]:
        found: list[ObjectTypeInfo] = []
        wanted: set[str] = set()
        for name, (parent, is_abstract) in object_types().items():
            if implements in (None, name) or parent in wanted:
                wanted.add(name)
                info: ObjectTypeInfo = {"name": name}
                if is_abstract:
                    info["abstract"] = True
                if parent is not None:
                    info["parent"] = parent
                if abstract or not is_abstract:
                    found.append(info)
        return found

    @registry.command("qom-get")
    def qom_get(path: str, property: str) -> Any:  # noqa: A002
        try:
            found = find(path)
        except AmbiguousError:
            raise CommandError(f"Device '{path}' not found", "DeviceNotFound") from None
        try:
            return found.get(property)
        except KeyError:
            raise CommandError(f"Property '{found.type}.{property}' not found") from None

    @registry.command("qom-list-properties")
    def qom_list_properties(typename: str) -> list[ObjectPropertyInfo]:
        try:
            found = type_properties(typename)
        except KeyError:
            raise CommandError(f"Class '{typename}' not found", "DeviceNotFound") from None
        return [{"name": name, "type": type_} for name, type_ in found.items()]
