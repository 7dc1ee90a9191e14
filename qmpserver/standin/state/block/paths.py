"""Devices that have drives, as queries and errors name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.standin.state import State

WITH_TRAY = ("ide-cd", "scsi-cd")
"""Devices that have a tray, and never write."""

_ON_PROXY = ("-pci", "-ccw", "-transitional")


def is_onboard(device: str) -> bool:
    """Return whether a device is part of the machine; its key is its path then."""
    return device.startswith("/")


def path_of(state: State, device: str) -> str:
    """Return the path of a device that has a drive: for a PCI device, of the one behind it."""
    one = state.devices[device]
    if is_onboard(device):
        return device
    path = f"/machine/peripheral{'' if one['named'] else '-anon'}/{device}"
    proxy = one["driver"].startswith("virtio-") and one["driver"].endswith(_ON_PROXY)
    return f"{path}/virtio-backend" if proxy else path


def qdev(state: State, device: str) -> str:
    """Return the name of a device that has a drive, as queries show it: its id, or its path."""
    path = path_of(state, device)
    named = state.devices[device]["named"] and path.endswith(f"/{device}")
    return device if named else path
