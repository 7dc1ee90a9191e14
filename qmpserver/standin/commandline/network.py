"""Options that create network backends, and the devices that come with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    given = launch.flat("netdev_add", value, "type")
    if "type" not in given:
        raise OptionError("Parameter 'type' is missing")
    return given


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"netdev": _netdev, "nic": _nic}
