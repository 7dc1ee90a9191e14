"""Options that create network backends, and the devices that come with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline.launch import MachineError, last_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_MODELS = {"q35": "e1000e", "isapc": "ne2k_isa"}
_NIC_KEYS = frozenset({"type", "id", "netdev", "macaddr", "model", "addr", "vectors"})
_HUB_PORT = "hub0port"
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
    nic: dict[str, str | None] = {key: given.pop(key, None) for key in ("model", "mac")}
    name = given.setdefault("id", f"#net{len(launch.state.netdevs):03}")
    _check_mac(nic["mac"])
    launch.execute("netdev_add", given, flat=not value.startswith("{"))
    _add_nic(launch, nic, name)


def _check_mac(mac: str | None) -> None:
    if mac is not None and not re.fullmatch("[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", mac):
        raise OptionError("invalid syntax for ethernet address")


def _add_nic(launch: Launch, nic: Mapping[str, str | None], netdev: str) -> None:
    """Add a NIC that is part of the machine: its model, without one the machine's, and its MAC."""
    _check_mac(nic["mac"])
    model = nic["model"] or _MODELS.get(launch.state.drivers.family, "e1000")
    device = {"driver": _ALIASES.get(model, model), "netdev": netdev}
    if nic["mac"] is not None:
        device["mac"] = nic["mac"]
    if _is_nic(launch, device["driver"]):
        launch.add_onboard("nic", device)
    elif launch.state.release.refuses_nics:
        raise MachineError(f"Unsupported NIC model: {model}")


def _net(launch: Launch, value: str) -> None:
    kind = value.partition(",")[0].removeprefix("type=")
    if kind == "none":
        return
    if kind != "nic":
        given = _backend(launch, value)
        if "id" in given:
            raise OptionError("Parameter 'id' is unexpected")
        given["id"] = f"#net{len(launch.state.netdevs):03}"
        launch.execute("netdev_add", given, flat=True)
        _add_port(launch, given["id"])
        return
    given = last_members(value, "type")
    for key in given:
        if key not in _NIC_KEYS:
            raise OptionError(f"Invalid parameter '{key}'")
    nic = {"model": given.get("model"), "mac": given.get("macaddr")}
    name = given.get("netdev")
    if name is not None and name not in launch.state.netdevs:
        raise OptionError(f"netdev '{name}' not found")
    _add_nic(launch, nic, name or _add_port(launch))


def _add_port(launch: Launch, below: str | None = None) -> str:
    """Add a port to the hub that connects the backends and NICs of `-net`, and return its name."""
    number = sum(name.startswith(_HUB_PORT) for name in launch.state.netdevs)
    name = f"{_HUB_PORT}{number}"
    port = {"type": "hubport", "id": name, "hubid": 0}
    launch.execute("netdev_add", port if below is None else {**port, "netdev": below})
    return name


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


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "netdev": _netdev,
    "nic": _nic,
    "net": _net,
}
