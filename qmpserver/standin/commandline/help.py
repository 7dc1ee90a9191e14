"""Lists that QEMU prints for `help` as an option's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.qapi.model import EnumType, ObjectType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.qapi import Schema
    from qmpserver.qapi.model import Type
    from qmpserver.releases import Release

_HELP = ("help", "?")


def help_text(option: str, value: str, release: Release, schema: Schema) -> str | None:
    """Return the text that an option asks for; None if it asks for none that is known.

    Args:
        option: Its name.
        value: Its value.
        release: The release, whose facts are listed.
        schema: Its commands.
    """
    if option == "device" and value.endswith(tuple(f",{one}" for one in _HELP)):
        return _properties(value.partition(",")[0].removeprefix("driver="), release)
    if value not in _HELP:
        return None
    match option:
        case "machine":
            return _list("Supported machines are:", _machines(release), indent="")
        case "cpu":
            models = sorted(one["name"] for one in release.facts.answers["query-cpu-definitions"])
            return _list("Available CPUs:", models)
        case "device":
            return "\n".join(f'name "{name}", bus {bus}' for name, bus in release.facts.pluggable())
        case "netdev" | "nic":
            kinds = _kinds(schema.commands["netdev_add"].arguments)
            return _list("Available netdev backend types:", kinds - {"nic"}, indent="")
        case "object":
            kinds = _kinds(schema.commands["object-add"].arguments)
            return _list("List of user creatable objects:", kinds)
        case "chardev":
            members = schema.commands["chardev-add"].arguments.members
            (backend,) = (one.type for one in members if one.name == "backend")
            return _list("Available chardev backend types:", _kinds(backend))
    return None


def _list(heading: str, names: Iterable[str], *, indent: str = "  ") -> str:
    return "\n".join((heading, *(indent + name for name in sorted(names))))


def _kinds(type_: Type) -> set[str]:
    """Return the values of the member that decides which others an object has."""
    tag = type_.tag if isinstance(type_, ObjectType) else None
    if tag is None or not isinstance(tag.type, EnumType):
        return set()
    return {one.name for one in tag.type.values}


def _machines(release: Release) -> list[str]:
    lines = []
    for one in release.facts.answers["query-machines"]:
        default = " (default)" if one.get("is-default") else ""
        if "alias" in one:
            lines.append(f"{one['alias']:20} (alias of {one['name']})")
        lines.append(f"{one['name']:20}{default}".rstrip())
    return lines


def _properties(driver: str, release: Release) -> str | None:
    device = release.facts.device(driver)
    if device is None:
        return None
    listed = release.facts.properties("device-list-properties", device.name) or []
    lines = [f"{one['name']}=<{one['type']}>" for one in listed]
    return _list(f"{device.name} options:", lines)
