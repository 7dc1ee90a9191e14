"""Devices that have drives: disks, CD-ROMs, floppies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import permissions
from qmpserver.standin.state.block.nodes import drop_unused
from qmpserver.standin.state.block.paths import WITH_TRAY, is_onboard, path_of, qdev

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.standin.state import State

_REMOVABLE = (*WITH_TRAY, "floppy", "sd-card")
# Devices, by how their names begin, which stop the guest at errors and keep a status of that.
_WITH_STATUS = ("ide-", "scsi-", "virtio-blk-", "usb-storage")

_DISKS = {"ide": "ide-hd", "scsi": "scsi-hd", "floppy": "floppy"}
_BUSES = {
    "pc": {"ide": 2, "floppy": 1, "pflash": 1},
    "q35": {"ide": 6, "floppy": 1, "pflash": 1},
    "isapc": {"ide": 2, "floppy": 1, "pflash": 1},
}


def attach(state: State, device: str, driver: str, given: Mapping[str, Any]) -> None:
    """Give a new device its drive: the one that it names, or an empty one.

    Args:
        state: The state.
        device: The key of the device.
        driver: Its type.
        given: Its properties.

    Raises:
        CommandError: Another device has the drive, or the drive is empty and the device is a disk.
    """
    name = given.get("drive")
    if name is None:
        if driver in _REMOVABLE and driver != "sd-card":
            state.drives.add(device=device)
        return
    key = state.drives.named(name)
    if key is None:
        key = state.drives.add(node=name, device=device)
        _check_drive(state, key, name, driver)
        return
    drive = state.drives[key]
    if drive["device"] is not None and is_onboard(drive["device"]):
        raise CommandError(
            f"Drive '{name}' is already in use because it has been automatically connected to"
            " another device (did you need 'if=none' in the drive options?)"
        )
    if drive["device"] is not None:
        raise CommandError(f"Drive '{name}' is already in use by another device")
    state.drives.change(key, device=device)
    _check_drive(state, key, drive["node"], driver)


def _check_drive(state: State, key: str, node: str | None, driver: str) -> None:
    """Check the drive of a new device; if it is refused, take it from the device.

    Raises:
        CommandError: It is empty or read-only, or other users of the node exclude the device.
    """
    try:
        _check_medium(state, node, driver)
        if node is not None:
            writes = driver not in WITH_TRAY and not state.nodes[node].get("read-only")
            state.drives.change(key, writes=writes)
            permissions.check(state, node)
    except CommandError:
        if state.drives[key]["name"]:
            state.drives.change(key, device=None, writes=False)
        else:
            del state.drives[key]
        raise


def _check_medium(state: State, node: str | None, driver: str) -> None:
    if node is None and driver not in _REMOVABLE:
        raise CommandError("Device needs media, but drive is empty")
    if node is not None and driver == "ide-hd" and state.nodes[node].get("read-only"):
        raise CommandError("Block node is read-only")


def has_place(state: State, interface: str, bus: int) -> bool:
    """Return whether the machine has a bus for a drive."""
    if interface in ("none", "virtio") or not state.drivers.known:
        return True
    pc = state.drivers.family
    if pc:
        return bus < _BUSES[pc].get(interface, 0)
    disk = _DISKS.get(interface)
    kind = None if disk is None else state.drivers.find(disk)
    return kind is not None and state.drivers.has_bus(kind)


def waiting(state: State) -> dict[str, Mapping[str, Any]]:
    """Return the drives that the machine has devices for, by key in the order of their places."""
    found = (
        (key, drive)
        for key, drive in state.drives.items()
        if drive["device"] is None and drive.get("interface") in ("ide", "floppy", "pflash")
    )
    by_place = sorted(found, key=lambda one: (one[1]["bus"], one[1]["unit"]))
    return dict(by_place) if state.drivers.family else {}


def connect(state: State) -> None:
    """Give the machine the devices of its drives.

    Raises:
        CommandError: A device refuses its drive.
    """
    for key, drive in waiting(state).items():
        match drive["interface"]:
            case "ide":
                _add_onboard(state, key, f"ide-{_kind(drive)}", state.onboard.path("ide"))
            case "floppy":
                _add_onboard(state, key, "floppy", state.onboard.path("floppy"))
            case "pflash":
                _add_onboard(state, key, "cfi.pflash01", f"/machine/system.flash{drive['unit']}")


def _kind(drive: Mapping[str, Any]) -> str:
    return "cd" if drive["cdrom"] else "hd"


def _add_onboard(state: State, key: str, driver: str, path: str) -> None:
    """Add a device that is part of the machine."""
    drive = state.drives[key]
    _check_medium(state, drive["node"], driver)
    device = {"driver": driver, "drive": drive["name"], "named": False}
    if driver.startswith("ide-"):
        device["unit"] = drive["unit"]
        bus = next((one for one in state.drivers.buses if one.name == f"ide.{drive['bus']}"), None)
        if bus is not None:
            state.drivers.buses.plug(path, bus, (), None)
    state.devices[path] = device
    state.drives.change(key, device=path)


def detach(state: State, device: str) -> None:
    """Delete the drive of a device that goes, and its node if nothing else has it."""
    key = state.drives.of(device)
    if key is not None:
        drop_unused(state, state.drives.pop(key)["node"])


def delete_drive(state: State, name: str) -> None:
    """Delete a drive, and its node if nothing else has it; the drive of a device stays, empty.

    Raises:
        CommandError: There is no such drive.
    """
    key = state.drives.named(name)
    if key is None:
        raise CommandError(f"Device '{name}' not found")
    drive = state.drives[key]
    if drive["device"] is None:
        del state.drives[key]
    else:
        state.drives.change(key, name="", node=None, reports=True, throttle=None)
    drop_unused(state, drive["node"])


def names(state: State, drive: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names by which commands mean the device of a drive; none without a device."""
    device = drive["device"]
    return () if device is None else (qdev(state, device), path_of(state, device))


def find(state: State, name: str | None, device: str | None) -> str:
    """Return the key of the drive that a command means.

    Args:
        state: The state.
        name: Its id.
        device: The id or the path of its device.

    Raises:
        CommandError: There is no such drive.
    """
    if (name is None) == (device is None):
        raise CommandError("Need exactly one of 'device' and 'id'")
    if device is None:
        found = state.drives.named(name)
        if found is None:
            raise CommandError(f"Device '{name}' not found", "DeviceNotFound")
        return found
    for key, drive in state.drives.items():
        if device in names(state, drive):
            return key
    if device.removeprefix("/machine/peripheral/") in state.devices:
        raise CommandError("Device does not have a block device backend")
    raise CommandError(f"Device '{device}' not found", "DeviceNotFound")


def is_removable(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether the medium of a drive can be changed."""
    return drive["device"] is None or _driver(state, drive) in _REMOVABLE


def has_tray(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether a drive has a tray."""
    return drive["device"] is not None and _driver(state, drive) in WITH_TRAY


def has_status(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether a drive has a status of errors that stop the guest."""
    if drive["device"] is None or drive["reports"]:
        return False
    device = state.devices[drive["device"]]
    stops = device.get("werror") not in ("report", "ignore") or device.get("rerror") == "stop"
    return stops and _driver(state, drive).startswith(_WITH_STATUS)


def _driver(state: State, drive: Mapping[str, Any]) -> str:
    return str(state.devices[drive["device"]]["driver"])
