"""Drives of the command line: `-drive`, and the older options that are short for it."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import IDENTIFIER, OptionError, parse_bool, parse_members, parse_number
from qmpserver.standin.commandline.launch import by_machine, last_members
from qmpserver.standin.state.block import disks, images, throttle
from qmpserver.standin.state.block.images import Image
from qmpserver.standin.state.block.nodes import add_node, drop_unused, image_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch
    from qmpserver.standin.state.block.images import Images

INTERFACES = ("none", "ide", "scsi", "floppy", "pflash", "mtd", "sd", "virtio", "xen")
"""The kinds of drives, in the order of QEMU's numbers for them."""

_ON_BUSES = ("ide", "scsi")  # interfaces whose drives are named after bus and unit
_UNITS = {"ide": 2, "scsi": 7}  # of one bus
_CACHES = {
    "none": (True, False, True),
    "directsync": (True, False, False),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "unsafe": (False, True, True),
}  # direct, no-flush, writeback
_AIO = ("threads", "native", "io_uring")
_AT_WRITE_ERRORS = ("report", "ignore", "enospc", "stop")
_AT_READ_ERRORS = ("report", "ignore", "stop")
_NAMES = ("driver", "node-name", "filename")  # members that are no objects
_NO_NODE = 'A block device must be specified for "file"'


def _drive(launch: Launch, value: str) -> None:
    add_drive(launch, last_members(value, "file"))


def files_of(given: Mapping[str, Any]) -> list[str]:
    """Return the names that may be those of a drive's files."""
    names = [value for name, value in given.items() if name.endswith(".filename")]
    return [*names, image_options(given["file"])["filename"]] if given.get("file") else names


def add_drive(launch: Launch, given: dict[str, Any], found: Images | None = None) -> None:
    """Create the nodes of a drive and the drive.

    Args:
        launch: The commands and the state.
        given: The members of the option.
        found: The files among them; None to read them now.

    Raises:
        OptionError: An option has no valid value.
        CommandError: A node is refused, or too much is kept.
    """
    options = dict(given)
    state = launch.state
    if not re.fullmatch(IDENTIFIER, options.get("id", "a")):
        raise OptionError("Parameter 'id' expects an identifier")
    if state.drives.named(options.get("id")) is not None:
        raise OptionError(f"Duplicate ID '{options['id']}' for drive")
    interface = options.pop("if", default_interface(launch))
    if interface not in INTERFACES:
        raise OptionError(f"unsupported bus type '{interface}'")
    media = options.pop("media", "disk")
    if media not in ("disk", "cdrom"):
        raise OptionError(f"'{media}' invalid media")
    bus, unit = _place(launch, interface, options)
    kind = ("-cd" if media == "cdrom" else "-hd") if interface in _ON_BUSES else ""
    on_bus = bus if _units(launch, interface) else ""
    name = options.pop("id", f"{interface}{on_bus}{kind}{unit}")
    more = _error_options(options)
    if not disks.has_place(state, interface, bus):
        words = f"machine type does not support if={interface},bus={bus},unit={unit}"
        raise OptionError(words)
    limits = throttle.from_options(options)
    node, writeback = _add_nodes(launch, options, found, read_only=media == "cdrom")
    if interface == "virtio" and node is None:
        raise OptionError("Device needs media, but drive is empty")
    try:
        if name in state.nodes:
            raise OptionError(f"Device name '{name}' conflicts with an existing node name")
        place = {"interface": interface, "bus": bus, "unit": unit, "cdrom": media == "cdrom"}
        key = state.drives.add(name, node, writeback=writeback, **place, **more)
    except Exception:
        drop_unused(state, node)
        raise
    if limits is not None and node is not None:
        throttle.limit(state, key, limits)


def default_interface(launch: Launch) -> str:
    """Return the interface of a drive that names none."""
    state = launch.state
    if state.machine.type.startswith("virt"):
        return "virtio"
    disk = state.drivers.find("ide-hd")
    return "ide" if disk is None or state.drivers.has_bus(disk) else "none"


def _units(launch: Launch, interface: str) -> int:
    """Return the number of units of a bus; 0 for an interface without buses."""
    if interface == "ide" and launch.state.drivers.family == "q35":
        return 1
    return _UNITS.get(interface, 0)


def _place(launch: Launch, interface: str, options: dict[str, Any]) -> tuple[int, int]:
    """Take the place out of the options of a drive; without one there, it is the first free one."""
    given = {
        key: parse_number(key, options.pop(key))
        for key in ("index", "bus", "unit")
        if key in options
    }
    units = _units(launch, interface)
    taken = _taken(launch, interface)
    bus, unit = given.get("bus", 0), given.get("unit")
    if "index" in given:
        if "bus" in given or "unit" in given:
            raise OptionError("index cannot be used with bus and unit")
        bus, unit = divmod(given["index"], units) if units else (0, given["index"])
    if unit is None:
        places = (divmod(n, units) if units else (0, n) for n in itertools.count(bus * units))
        return next(place for place in places if place not in taken)
    if units and unit >= units:
        raise OptionError(f"unit {unit} too big (max is {units - 1})")
    if (bus, unit) in taken:
        index = bus * units + unit
        raise OptionError(f"drive with bus={bus}, unit={unit} (index={index}) exists")
    return bus, unit


def is_free(launch: Launch, interface: str, index: int) -> bool:
    """Return whether no drive of an interface has a place yet."""
    units = _units(launch, interface)
    return (divmod(index, units) if units else (0, index)) not in _taken(launch, interface)


def _taken(launch: Launch, interface: str) -> set[tuple[int, int]]:
    """Return bus and unit of each drive of an interface."""
    return {
        (one["bus"], one["unit"])
        for one in launch.state.drives.values()
        if one.get("interface") == interface
    }


def _error_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take out what a drive does at errors, and options that have no effect here."""
    write, read = options.pop("werror", "enospc"), options.pop("rerror", "report")
    if write not in _AT_WRITE_ERRORS:
        raise OptionError(f"'{write}' invalid write error action")
    if read not in _AT_READ_ERRORS:
        raise OptionError(f"'{read}' invalid read error action")
    if options.pop("aio", "threads") not in _AIO:
        raise OptionError("invalid aio option")
    for name in ("snapshot", "copy-on-read", "serial", "addr", "stats-account-invalid"):
        options.pop(name, None)
    return {"reports": write in ("report", "ignore") and read != "stop"}


def _add_nodes(
    launch: Launch, options: dict[str, Any], known: Images | None, *, read_only: bool
) -> tuple[str | None, bool]:
    """Add the nodes of a drive.

    Returns:
        The name of the node, None for an empty drive; and whether the drive's cache takes writes.
    """
    state = launch.state
    direct, no_flush, writeback = _caches(options)
    for name in ("readonly", "read-only"):
        if name in options:
            read_only = parse_bool("read-only", options.pop(name)) or read_only
    file = options.pop("file", "")
    if "driver" in options and "format" in options:
        raise OptionError("Cannot specify both 'driver' and 'format'")
    driver = options.pop("format", options.pop("driver", None))
    common = {
        "read-only": read_only,
        "detect-zeroes": options.pop("detect-zeroes", "off"),
        "cache": {"direct": direct, "no-flush": no_flush},
    }
    for name in ("node-name", "discard"):
        if name in options:
            common[name] = options.pop(name)
    in_json = parse_members(file.removeprefix("json:")) if file.startswith("json:{") else {}
    below = image_options(file) if file and not in_json else {}
    flat = {"driver": driver, **options} if driver is not None else options
    if not (flat or below or in_json):
        return None, writeback
    nested = {**in_json, **_nested(flat)}
    driver = nested.get("driver")
    inner = nested.get("file")
    if below and not isinstance(inner, str):
        nested["file"] = {**below, **(inner or {})}
    if isinstance(nested.get("file"), dict):
        nested["file"].setdefault("driver", "file")
    names = list(images.names(nested))
    found = images.read(names) if known is None else {one: known.get(one, Image()) for one in names}
    if driver is None:
        image = found.get(_filename(nested), Image())
        nested = {**nested, "driver": image.format or "raw"}
    elif state.block_options(driver) is not None and "file" not in nested and _needs_file(driver):
        raise OptionError(_NO_NODE)
    if isinstance(nested.get("file"), dict):
        _check_names(launch, nested["file"], "protocol")
    _check_names(launch, nested, "format")
    return add_node(state, {**common, **nested}, found, owned=False), writeback


def _caches(options: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Take out the modes of the cache: whether it is bypassed, flushed, and takes writes."""
    cache = options.pop("cache", "writeback")
    if cache not in _CACHES:
        raise OptionError("invalid cache option")
    modes = dict(zip(("direct", "no-flush", "writeback"), _CACHES[cache], strict=True))
    for name in modes:
        if f"cache.{name}" in options:
            modes[name] = parse_bool(f"cache.{name}", options.pop(f"cache.{name}"))
    return modes["direct"], modes["no-flush"], modes["writeback"]


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with dotted names as objects."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        inner = made
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict) or parent in _NAMES:
                raise OptionError(f"Parameters '{parent}.*' used inconsistently")
        inner[last] = value
    return made


def _filename(options: Mapping[str, Any]) -> str:
    file = options.get("file")
    name = file.get("filename") if isinstance(file, dict) else None
    return name if isinstance(name, str) else ""


def _needs_file(driver: str) -> bool:
    return driver in ("raw", "qcow2")


def _check_names(launch: Launch, options: Mapping[str, Any], what: str) -> None:
    """Check the names of a node's options, for the drivers whose options have no older names.

    Raises:
        OptionError: The driver has no such option.
    """
    driver = options["driver"]
    known = launch.state.block_options(driver) if driver in ("raw", "qcow2", "file") else None
    for name in options:
        if known is not None and name not in known:
            does = "does not" if what == "format" else "doesn't"
            raise OptionError(f"Block {what} '{driver}' {does} support the option '{name}'")


def connect_virtio(launch: Launch) -> None:
    """Add the devices of `if=virtio`, which QEMU makes after those of `-device`.

    Raises:
        OptionError: A device is refused.
    """
    for drive in list(launch.state.drives.values()):
        if drive.get("interface") == "virtio" and drive["device"] is None:
            launch.execute("device_add", {"driver": "virtio-blk-pci", "drive": drive["name"]})


def connect(launch: Launch) -> None:
    """Give the machine the devices of its drives.

    Raises:
        MachineError: A device refuses its drive.
    """
    with by_machine():
        disks.connect(launch.state)


def _disk(**options: str) -> Callable[[Launch, str], None]:
    return lambda launch, value: add_drive(launch, {"file": value, **options})


def _default_disk(**options: str) -> Callable[[Launch, str], None]:
    return lambda launch, value: add_drive(
        launch, {"file": value, "if": default_interface(launch), **options}
    )


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    "drive": _drive,
    "hda": _default_disk(index="0"),
    "hdb": _default_disk(index="1"),
    "hdc": _default_disk(index="2"),
    "hdd": _default_disk(index="3"),
    "cdrom": _default_disk(index="2", media="cdrom"),
    "fda": _disk(**{"if": "floppy", "index": "0"}),
    "fdb": _disk(**{"if": "floppy", "index": "1"}),
    "pflash": _disk(**{"if": "pflash"}),
    "sd": _disk(**{"if": "sd"}),
    "mtdblock": _disk(**{"if": "mtd"}),
}
