"""Devices that have drives: disks, CD-ROMs, floppies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import drop_unused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.standin.state import State

_WITH_TRAY = ("ide-cd", "scsi-cd")
_REMOVABLE = (*_WITH_TRAY, "floppy", "sd-card")
# Devices, by how their names begin, which stop the guest at errors and keep a status of that.
_WITH_STATUS = ("ide-", "scsi-", "virtio-blk-", "usb-storage")
_ON_PROXY = ("-pci", "-ccw", "-transitional")


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
        state.drives.add(node=name, device=device)
        return
    drive = state.drives[key]
    if drive["device"] is not None:
        raise CommandError(f"Drive '{name}' is already in use by another device")
    if drive["node"] is None and driver not in _REMOVABLE:
        raise CommandError("Device needs media, but drive is empty")
    state.drives.change(key, device=device)


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


def path_of(state: State, device: str) -> str:
    """Return the path of a device that has a drive: for a PCI device, of the one behind it."""
    one = state.devices[device]
    path = f"/machine/peripheral{'' if one['named'] else '-anon'}/{device}"
    proxy = one["driver"].startswith("virtio-") and one["driver"].endswith(_ON_PROXY)
    return f"{path}/virtio-backend" if proxy else path


def qdev(state: State, device: str) -> str:
    """Return the name of a device that has a drive, as queries show it: its id, or its path."""
    path = path_of(state, device)
    named = state.devices[device]["named"] and path.endswith(f"/{device}")
    return device if named else path


def names(state: State, drive: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names by which commands mean the device of a drive; none without a device."""
    device = drive["device"]
    return () if device is None else (qdev(state, device), path_of(state, device))


def is_removable(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether the medium of a drive can be changed."""
    return drive["device"] is None or _driver(state, drive) in _REMOVABLE


def has_tray(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether a drive has a tray."""
    return drive["device"] is not None and _driver(state, drive) in _WITH_TRAY


def has_status(state: State, drive: Mapping[str, Any]) -> bool:
    """Return whether a drive has a status of errors that stop the guest."""
    if drive["device"] is None or drive["reports"]:
        return False
    device = state.devices[drive["device"]]
    stops = device.get("werror") not in ("report", "ignore") or device.get("rerror") == "stop"
    return stops and _driver(state, drive).startswith(_WITH_STATUS)


def _driver(state: State, drive: Mapping[str, Any]) -> str:
    return str(state.devices[drive["device"]]["driver"])
