"""Devices that are part of a machine, and not of its command line: their places in QOM's tree."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# QEMU numbers such devices as it makes them. The kinds in that order, by release (one, or all
# others) and family, each after the number of other devices that it makes before.
_ORDERS: Mapping[tuple[str, str], str] = {
    ("", "pc"): "4 ide 2 vga 3 isa 1 floppy 4 nic",
    ("", "q35"): "8 isa 0 fdc 0 floppy 5 ide 0 usb 9 vga 0 nic",
    ("", "isapc"): "5 vga 2 isa 1 floppy 4 nic 2 ide",
    ("qemu-7.2", "pc"): "8 vga 4 isa 1 floppy 4 nic 1 ide 0 usb",
    ("qemu-7.2", "isapc"): "6 vga 3 isa 1 floppy 4 nic 2 ide",
    ("qemu-7.2", "q35"): "11 isa 0 fdc 0 floppy 5 ide 0 usb 9 vga 0 nic",
}
_PIIX3 = 3  # number of the bridge that the USB controller is a part of on newer PCs
_MANY = 64  # more than QEMU makes of its own


class Onboard:
    """The places in the tree that the machine's devices get."""

    def __init__(self) -> None:
        self._paths: dict[str, Iterator[str]] = {}
        self._others = (_path(number) for number in itertools.count(_MANY))

    def allot(self, release: str, family: str, cpus: int, counts: Mapping[str, int]) -> None:
        """Give each device its place.

        Args:
            release: Name of the machine's release.
            family: `Drivers.family`.
            cpus: The number of vCPUs.
            counts: The number of devices of each kind: `ide` and `floppy` disks, `isa` ports,
                `usb` controllers, `vga`, `nic`.
        """
        order = _ORDERS.get((release, family), _ORDERS.get(("", family), "")).split()
        number = cpus - 1
        self._paths["usb"] = iter([f"{_path(number + _PIIX3)}/uhci"])
        has = {**counts, "fdc": int(counts.get("floppy", 0) > 0)}
        for others, kind in zip(order[::2], order[1::2], strict=True):
            first = number + int(others)
            number = first + has.get(kind, 0)
            self._paths[kind] = map(_path, range(first, number))

    def path(self, kind: str) -> str:
        """Return the path of the next device of a kind."""
        return next(self._paths.get(kind, iter(())), None) or next(self._others)


def _path(number: int) -> str:
    return f"/machine/unattached/device[{number}]"
