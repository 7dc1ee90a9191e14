"""Options of disks and of `-device`: a boot sector, and the serial port, are all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.cli.options.monitors import set_serial
from qmpserver.cli.table import WithFake, option
from qmpserver.keyval import OptionError, kinds, parse_members, parse_options, split_options

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings

_DRIVE = kinds(string="file if format media bus unit index cache aio", boolean="readonly")
_DISKS = ("ide-hd",)
_NO_DISK = "this program has only boot sectors of disks"


@option(
    "drive",
    "file=FILE[,if=ide|none][,id=ID][,format=raw]",
    "a disk image; the vCPU runs its boot sector, on KVM, and can read no other",
    with_fake=WithFake.IGNORED,
)
def add_drive(settings: Settings, value: str) -> None:
    """Add a disk; with `if=none` it waits for a device."""
    options = parse_options(value, _DRIVE)
    path, interface = options.string("file"), options.string("if") or "ide"
    if interface not in ("ide", "none"):
        raise OptionError(f"{_NO_DISK}; expected if=ide or if=none")
    if options.string("format") not in (None, "raw"):
        raise OptionError(f"{_NO_DISK}; expected format=raw")
    if path is None or options.string("media") == "cdrom":
        raise OptionError(f"{_NO_DISK}; expected file=FILE")
    if interface == "none":
        settings.drives[options.id or "none0"] = path
    else:
        _boot(settings, path)


@option(
    "device",
    "ide-hd,drive=ID|isa-serial[,chardev=ID]",
    "the disk of a drive with if=none; the first serial port",
    with_fake=WithFake.IGNORED,
)
def add_device(settings: Settings, value: str) -> None:
    """Give a drive to a disk, or a character device to the serial port."""
    if value.startswith("{"):
        properties = parse_members(value, "driver")
    else:
        properties = {name: text for name, text, _ in split_options(value, "driver")}
    driver = properties.get("driver")
    if driver == "isa-serial":
        for name in properties:
            if name not in ("driver", "id", "chardev", "index"):
                raise OptionError(f"Property 'isa-serial.{name}' not found")
        if properties.get("index", 0) not in (0, "0"):
            raise OptionError("this program has one serial port, that with index 0")
        chardev = properties.get("chardev")
        set_serial(settings, "none" if chardev is None else f"chardev:{chardev}")
        return
    if driver not in _DISKS:
        raise OptionError(f"this program has no other devices than 'isa-serial' and '{_DISKS[0]}'")
    drive = properties.get("drive")
    if drive is None:
        raise OptionError("drive property not set")
    if drive not in settings.drives:
        raise OptionError(f"Property '{driver}.drive' can't find value '{drive}'")
    _boot(settings, settings.drives.pop(drive))


@option("hda", "FILE", "the same as -drive file=FILE", with_fake=WithFake.IGNORED)
def set_first_disk(settings: Settings, value: str) -> None:
    """Add a disk."""
    _boot(settings, value)


def _boot(settings: Settings, path: str) -> None:
    """Boot from a disk, unless there is one before it."""
    if settings.boot_disk is None:
        settings.boot_disk = path
