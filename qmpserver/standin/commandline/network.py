"""Options that create network backends, and the devices that come with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
from qmpserver.qapi.model import ArrayType, ObjectType
from qmpserver.standin.commandline.launch import flat_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.qapi import Command
    from qmpserver.standin.commandline.launch import Launch

_MODEL = "e1000"  # of the machine type pc
# The backends whose options have dotted keys.
_DOTTED = ("stream", "dgram")


def _netdev(launch: Launch, value: str) -> None:
    given = _backend(launch, value)
    if given.get("id") in launch.state.netdevs:
        raise OptionError(f"Duplicate ID '{given['id']}' for netdev")
    launch.execute("netdev_add", given, flat=not value.startswith("{"))


def _nic(launch: Launch, value: str) -> None:
    given = _backend(launch, value)
    if given.get("type") == "none":
        return
    device = {"driver": given.pop("model", _MODEL)}
    device |= {key: given.pop(key) for key in ("mac", "addr") if key in given}
    name = given.setdefault("id", f"#net{len(launch.state.netdevs):03}")
    launch.execute("netdev_add", given, flat=not value.startswith("{"))
    launch.add_implied_device({**device, "netdev": name})


def _backend(launch: Launch, value: str) -> dict[str, Any]:
    kind = value.partition(",")[0].removeprefix("type=")
    if value.startswith("{") or kind in _DOTTED:
        return parse_members(value, "type")
    given: dict[str, Any] = flat_members(value, "type")
    if "type" not in given:
        raise OptionError("Parameter 'type' is missing")
    declared = launch.commands.schema.commands.get("netdev_add")
    for name, one in given.items():
        listed = declared is not None and _listed(declared, given["type"], name)
        given[name] = _elements(one) if listed else one[-1] if isinstance(one, list) else one
    return given


def _listed(command: Command, kind: object, name: str) -> bool:
    """Return whether a member is an array, of which each element has an option of its own."""
    branch = command.arguments.branches.get(str(kind))
    if branch is None or not isinstance(branch.type, ObjectType):
        return False
    return any(
        member.name == name and isinstance(member.type, ArrayType) for member in branch.type.members
    )


def _elements(given: str | list[str]) -> list[dict[str, str]]:
    return [{"str": one} for one in ([given] if isinstance(given, str) else given)]


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"netdev": _netdev, "nic": _nic}
