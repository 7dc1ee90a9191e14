"""Options that create network backends, and the devices that come with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline.launch import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_ALIASES = {"virtio": "virtio-net-pci"}
# The backends whose options have dotted keys.
_DOTTED = ("stream", "dgram")


def _netdev(launch: Launch, value: str) -> None:
    given = _backend(launch, value)
    if given.get("id") in launch.state.netdevs:
        raise OptionError(f"Duplicate ID '{given['id']}' for netdev")
    launch.execute("netdev_add", given, flat=not value.startswith("{"))


def _nic(launch: Launch, value: str) -> None:
    given = _backend(launch, value)
    if given.setdefault("type", "user") == "none":
        return
    express = launch.state.drivers.machine.startswith("pc-q35")
    model = str(given.pop("model", "e1000e" if express else "e1000"))
    device = {"driver": _ALIASES.get(model, model)}
    if "mac" in given:
        device["mac"] = str(given.pop("mac"))
        if not re.fullmatch("[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", device["mac"]):
            raise OptionError("invalid syntax for ethernet address")
    name = given.setdefault("id", f"#net{len(launch.state.netdevs):03}")
    launch.execute("netdev_add", given, flat=not value.startswith("{"))
    if _is_nic(launch, device["driver"]):
        launch.add_implied_device({**device, "netdev": name})
    elif launch.state.release.refuses_nics:
        raise MachineError(f"Unsupported NIC model: {model}")


def _is_nic(launch: Launch, driver: str) -> bool:
    """Return whether a type of device can be a model of `-nic`."""
    drivers = launch.state.drivers
    try:
        kind = drivers.find(driver)
    except CommandError:
        return False
    if kind is None:
        return True
    return kind.bus in ("PCI", "ISA") and "netdev" in drivers.types(kind)


def _backend(launch: Launch, value: str) -> dict[str, Any]:
    kind = value.partition(",")[0].removeprefix("type=")
    if value.startswith("{") or kind in _DOTTED:
        return parse_members(value, "type")
    return launch.flat("netdev_add", value, "type")


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"netdev": _netdev, "nic": _nic}
