"""Options of QEMU's that mean nothing here: some are taken and do nothing, others are refused.

An option is taken only if the user gets what it asks for without it: no display, no network, a
clock that no guest reads. What would have to be left out silently is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import Kind, OptionError, kinds, parse_bool, parse_options, split_options

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAGS = frozenset({"nodefaults", "no-user-config", "no-hpet", "no-acpi", "no-fd-bootchk"})
"""Flags that switch off what is not here anyway."""

_NOTHING = {
    "display": ("none",),
    "vga": ("none",),
    "vnc": ("none",),
    "gdb": ("none",),
    "net": ("none",),
    "nic": ("none",),
    "serial": ("none", "null"),
    "parallel": ("none", "null"),
    "debugcon": ("none", "null"),
    "audio": ("none", "driver=none"),
    "overcommit": ("mem-lock=off", "cpu-pm=off", "mem-lock=off,cpu-pm=off"),
}

_TAKEN: Mapping[str, Mapping[str, Kind]] = {
    "rtc": kinds(string="base clock driftfix"),
    "boot": kinds(string="order once splash splash-time reboot-timeout", boolean="menu strict"),
    "sandbox": kinds(string="obsolete elevateprivileges spawn resourcecontrol", boolean="enable"),
}
_IMPLIED = {"boot": "order", "sandbox": "enable"}

_ABSENT = {
    "disks": "hda hdb hdc hdd cdrom fda fdb blockdev drive mtdblock sd pflash iscsi snapshot!",
    "shared file systems": "fsdev virtfs",
    "devices to add": "device usbdevice usb! tpmdev watchdog",
    "network": "netdev",
    "display": "spice g full-screen! alt-grab! ctrl-grab! portrait! rotate",
    "sound": "audiodev audio-help! soundhw",
    "objects to add": "object",
    "NUMA nodes": "numa",
    "memory of another kind": "mem-path mem-prealloc!",
    "migration": "incoming loadvm only-migratable! dump-vmstate",
    "debugger": "s!",
    "firmware tables": "acpitable smbios fw_cfg option-rom dtb prom-env old-param!",
    "boot loader": "kernel initrd append",
    "log items": "d dfilter",
    "instruction counter": "icount singlestep! plugin",
    "random numbers to seed": "seed",
    "descriptor sets": "add-fd",
    "change of user or root directory": "runas chroot",
    "configuration files or settings of devices": "readconfig writeconfig set",
    "state before the machine is made": "preconfig!",
    "policy for deprecated interfaces": "compat",
    "test harness": "qtest qtest-log",
    "Xen": "xen-domid xen-attach! xen-domid-restrict!",
    "semihosting": "semihosting! semihosting-config",
    "teardown of its own": "async-teardown! enable-sync-profile!",
}
_MISSING = {
    option.rstrip("!"): (what, not option.endswith("!"))
    for what, options in _ABSENT.items()
    for option in options.split()
}

MACHINE_TYPES = {
    "qmpserver": "RAM and vCPUs, no device (default)",
    "none": "the same",
    "pc": "the same",
    "q35": "the same",
    "microvm": "the same",
    "isapc": "the same",
}
_MACHINE_SWITCHES = frozenset(
    """acpi dump-guest-core fd-bootchk graphics hpet i8042 kernel-irqchip mem-merge pic pit sata
    smbus smm vmport""".split()  # noqa: SIM905
)
CPU_MODELS = ("host", "max")


def argument(option: str) -> bool | None:
    """Return whether an option of QEMU's that means nothing here takes a value; None if unknown."""
    if option in FLAGS:
        return False
    if option in _NOTHING or option in _TAKEN or option in ("k", "L", "echr", "cpu", "global"):
        return True
    return _MISSING[option][1] if option in _MISSING else None


def check(option: str, value: str) -> str | None:
    """Take such an option, or refuse it; returns what to warn of.

    Raises:
        OptionError: What it asks for is not here.
    """
    if option in _MISSING:
        raise OptionError(f"this program has no {_MISSING[option][0]}")
    if option == "serial" and value.startswith("chardev:"):
        return None  # a port that no guest here writes to
    if option in _NOTHING and value not in _NOTHING[option]:
        raise OptionError(f"this program can only do '{_NOTHING[option][0]}'")
    if option in _TAKEN:
        given = parse_options(value, _TAKEN[option], implied=_IMPLIED.get(option))
        if option == "sandbox" and given.bool("enable"):
            return "this program gives no system call up"
    if option == "cpu" and value.partition(",")[0] not in CPU_MODELS:
        raise OptionError("the vCPUs here are the host's: 'host' or 'max'")
    if option == "global":
        return _global(value)
    return None


def _global(value: str) -> str:
    # Like QEMU, which warns of properties of devices that are not there.
    settings = [f"{name}={setting}" for name, setting, _ in split_options(value)]
    if value.startswith("driver="):
        given = parse_options(value, kinds(string="driver property value"))
        settings = [f"{given.string('driver')}.{given.string('property')}={given.string('value')}"]
    elif "." not in value.partition("=")[0]:
        raise OptionError(f"Invalid parameter '{value.partition('=')[0]}'")
    return f"global {','.join(settings)} not used"


class MachineTypeError(OptionError):
    """There is no such type; QEMU says so without naming the option."""


def check_machine(properties: Mapping[str, str]) -> None:
    """Take the type and the properties of a machine, without ``accel``.

    Raises:
        OptionError: There is none such, or it asks for what is not here.
    """
    kind = properties.get("type", "qmpserver")
    family = (
        "pc" if kind.startswith("pc-i440fx-") else "q35" if kind.startswith("pc-q35-") else kind
    )
    if family not in MACHINE_TYPES:
        raise MachineTypeError(
            "unsupported machine type", "Use -machine help to list supported machines"
        )
    for name, value in properties.items():
        if name == "usb":
            if parse_bool(name, value):
                raise OptionError("this program has no USB")
        elif name not in ("type", *_MACHINE_SWITCHES):
            raise OptionError(f"Property '{kind}-machine.{name}' not found")
