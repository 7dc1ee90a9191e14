"""Options that create block nodes and drives."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_members
from qmpserver.standin.commandline.launch import last_members
from qmpserver.standin.state import images
from qmpserver.standin.state.block import add_node, image_options
from qmpserver.standin.state.images import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch

_INTERFACES = (
    "none", "ide", "scsi", "floppy", "pflash", "virtio", "mtd", "sd", "xen",
)  # fmt: skip
# Units of a bus, of interfaces that have buses.
_UNITS = {"ide": 2, "scsi": 7}
_DEVICES = {"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "floppy": "floppy", "ide": "ide-hd"}
_ON_BOARDS = ("mtd", "sd")  # of other architectures
_CACHES = {
    "none": {"direct": True, "no-flush": False},
    "directsync": {"direct": True, "no-flush": False},
    "writeback": {"direct": False, "no-flush": False},
    "writethrough": {"direct": False, "no-flush": False},
    "unsafe": {"direct": False, "no-flush": True},
}


def _blockdev(launch: Launch, value: str) -> None:
    launch.execute("blockdev-add", parse_members(value, "driver"))


def _drive(launch: Launch, value: str) -> None:
    add_drive(launch, last_members(value, "file"))


def add_drive(launch: Launch, given: dict[str, Any]) -> None:
    """Create the nodes of a drive, the drive, and for most interfaces a device.

    Raises:
        OptionError: An option has no valid value.
        CommandError: There is such a drive, or too much is kept.
    """
    state = launch.state
    interface = given.get("if") or ("ide" if _takes(launch, "ide") else "none")
    if interface not in _INTERFACES:
        raise OptionError(f"unsupported bus type '{interface}'")
    media = given.get("media", "disk")
    if media not in ("disk", "cdrom"):
        raise OptionError(f"'{media}' invalid media")
    name = given.get("id") or _name(launch, interface, media)
    if state.drives.named(name) is not None or name in state.nodes:
        raise OptionError(f"Duplicate ID '{name}' for drive")
    cache = given.get("cache", "writeback")
    if cache not in _CACHES:
        raise OptionError("invalid cache option")
    node = None
    if given.get("file"):
        below = image_options(given["file"])
        found = images.read(images.names(below))
        image = found.get(below["filename"], Image())
        options = {
            "driver": given.get("format", given.get("driver", image.format or "raw")),
            "file": below,
            "cache": _CACHES[cache],
            "read-only": given.get("readonly", given.get("read-only", "off")) in ("on", "yes"),
            "detect-zeroes": given.get("detect-zeroes", "off"),
        }
        if "node-name" in given:
            options["node-name"] = given["node-name"]
        node = add_node(state, options, found, owned=False)
    state.drives.add(name, node)
    on_q35 = state.drivers.machine.startswith("pc-q35")
    if interface == "floppy" and on_q35 and not _takes(launch, interface):
        # It has the controller only if it has a drive for it.
        launch.add_implied_device({"driver": "isa-fdc"})
    if interface != "virtio" and not _takes(launch, interface):
        place = f"bus={given.get('bus', 0)},unit={given.get('unit', 0)}"
        raise OptionError(f"machine type does not support if={interface},{place}")
    driver = _DEVICES.get(interface)
    if driver is not None:
        driver = "ide-cd" if (interface, media) == ("ide", "cdrom") else driver
        launch.execute("device_add", {"driver": driver, "drive": name})


def _takes(launch: Launch, interface: str) -> bool:
    """Return whether the machine has a place for drives of an interface."""
    drivers = launch.state.drivers
    if interface in _ON_BOARDS:
        return not drivers.known
    kind = drivers.find(_DEVICES[interface]) if interface in _DEVICES else None
    return kind is None or drivers.has_bus(kind)


def _name(launch: Launch, interface: str, media: str) -> str:
    """Return the name of a drive without an id: after its interface, bus and unit."""
    kind = "cd" if media == "cdrom" else "hd"
    names = [drive["name"] for drive in launch.state.drives.values()]
    units = _UNITS.get(interface, 0)
    for index in itertools.count():
        if interface in ("floppy", "sd", "none", "virtio", "pflash", "mtd", "xen"):
            name = f"{interface}{index}"
        else:
            name = f"{interface}{index // units}-{kind}{index % units}"
        taken = {one.replace("-cd", "-hd") for one in names}
        if name.replace("-cd", "-hd") not in taken:
            return name
    raise AssertionError


def _disk(**options: str) -> Callable[[Launch, str], None]:
    return lambda launch, value: add_drive(launch, {"file": value, **options})


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "blockdev": _blockdev,
    "drive": _drive,
    "hda": _disk(id="ide0-hd0"),
    "hdb": _disk(id="ide0-hd1"),
    "hdc": _disk(id="ide1-hd0"),
    "hdd": _disk(id="ide1-hd1"),
    "cdrom": _disk(id="ide1-cd0", media="cdrom"),
    "fda": _disk(**{"if": "floppy", "id": "floppy0"}),
    "fdb": _disk(**{"if": "floppy", "id": "floppy1"}),
    "pflash": _disk(**{"if": "pflash"}),
    "sd": _disk(**{"if": "sd"}),
    "mtdblock": _disk(**{"if": "mtd"}),
}
