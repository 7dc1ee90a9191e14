"""What is part of the machine: the display adapter, and the devices that it has by default.

QEMU leaves out the latter with `-nodefaults`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError, parse_members
from qmpserver.standin.commandline import drives, usb
from qmpserver.standin.commandline.launch import last_members
from qmpserver.standin.state.block import disks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qmpserver.standin.commandline.launch import Launch

# Types of display adapters on PCI; an ISA machine has others.
_VGAS = {
    "std": "VGA", "cirrus": "cirrus-vga", "vmware": "vmware-svga", "qxl": "qxl-vga",
    "virtio": "virtio-vga",
}  # fmt: skip
_ISA_VGAS = {"std": "isa-vga", "cirrus": "isa-cirrus-vga"}


def _vga(launch: Launch, value: str) -> None:
    on_isa = launch.state.drivers.family == "isapc"
    driver = (_ISA_VGAS if on_isa else _VGAS).get(value)
    if driver is not None:
        launch.add_onboard("vga", {"driver": driver})


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"vga": _vga}

_ADAPTERS = frozenset(
    """VGA cirrus-vga vmware-svga qxl-vga virtio-vga virtio-vga-gl virtio-vga-rutabaga ati-vga
    vhost-user-vga isa-vga isa-cirrus-vga""".split()  # noqa: SIM905
)
_DISKS = frozenset({"ide-cd", "ide-hd", "scsi-cd", "scsi-hd"})
_FLOPPIES = frozenset({"floppy", "isa-fdc"})


def with_defaults(launch: Launch, given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return options with those that stand for the machine's default devices but drives.

    Options that place a device of a kind, and devices of the kind, take the place of its default.
    """
    pc = launch.state.drivers.family
    names = {name for name, _ in given}
    types = device_types(given)
    made = list(given)
    if not pc:
        return made
    for port, without_display in (("serial", "stdio"), ("parallel", "null")):
        if port not in names and f"isa-{port}" not in types:
            made.append((port, without_display if "nographic" in names else "vc"))
    if "vga" not in names and not types & _ADAPTERS:
        made.append(("vga", "cirrus" if pc == "isapc" else "std"))
    if not names & {"net", "nic", "netdev"}:
        made += [("net", "nic"), ("net", "user")]
    return made


def add_default_drives(launch: Launch, given: Sequence[tuple[str, str]]) -> None:
    """Add the empty drives that the machine has by default."""
    state = launch.state
    pc, types = state.drivers.family, device_types(given)
    if not pc:
        return
    if not types & _DISKS and drives.is_free(launch, "ide", 2):
        drives.add_drive(launch, {"if": "ide", "index": "2", "media": "cdrom"})
    if pc != "q35" and not types & _FLOPPIES and drives.is_free(launch, "floppy", 0):
        drives.add_drive(launch, {"if": "floppy", "index": "0"})
    if state.release.has_card_slot:
        state.drives.add("sd0", interface="sd", bus=0, unit=0, cdrom=False)


def device_types(given: Iterable[tuple[str, str]]) -> set[str]:
    """Return the types of devices that options name."""
    found = set()
    for name, value in given:
        if name == "device":
            text = not value.startswith("{")
            with contextlib.suppress(OptionError):  # the option's own handler reports it
                members = last_members(value, "driver") if text else parse_members(value, "driver")
                found.add(str(members.get("driver")))
    return found


def allot(launch: Launch, given: Iterable[tuple[str, str]]) -> None:
    """Give the devices that are part of the machine their places, before the first is made."""
    counts = Counter(str(drive["interface"]) for drive in disks.waiting(launch.state).values())
    for name, value in given:
        kind = value.partition(",")[0]
        if name in ("serial", "parallel") and kind != "none":
            counts["isa"] += 1
        elif (name == "net" and kind == "nic") or (name == "nic" and kind != "none"):
            counts["nic"] += 1
        elif name == "vga" and kind != "none":
            counts["vga"] = 1
    counts["usb"] = len(usb.controllers(launch))
    state = launch.state
    state.onboard.allot(state.release.name, state.drivers.family, state.machine.cpus, counts)
