"""QEMU options that are accepted without effect, or refused.

An option is accepted if the machine here fulfils it anyway: no display, no network, a clock that no
guest reads. An option that asks for something else is refused; none is ignored silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.cli.help import is_help, listing
from qmpserver.keyval import (
    Kind,
    OptionError,
    kinds,
    parse_bool,
    parse_members,
    parse_options,
    split_options,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.cli.settings import Settings

FLAGS = frozenset({"nodefaults", "no-user-config", "no-hpet", "no-acpi", "no-fd-bootchk"})
"""Flags that disable devices and files that do not exist here."""

# The accepted values of options for devices that do not exist here.
_NOTHING = {
    "display": ("none",),
    "vga": ("none",),
    "vnc": ("none",),
    "gdb": ("none",),
    "net": ("none",),
    "nic": ("none",),
    "parallel": ("none", "null"),
    "debugcon": ("none", "null"),
    "audio": ("none", "driver=none"),
    "overcommit": ("mem-lock=off", "cpu-pm=off", "mem-lock=off,cpu-pm=off"),
}

# Options whose parameters are checked; they have no effect.
_ACCEPTED: Mapping[str, Mapping[str, Kind]] = {
    "rtc": kinds(string="base clock driftfix"),
    "boot": kinds(string="order once splash splash-time reboot-timeout", boolean="menu strict"),
    "sandbox": kinds(string="obsolete elevateprivileges spawn resourcecontrol", boolean="enable"),
}
_IMPLIED = {"boot": "order", "sandbox": "enable"}

# Refused options, by the missing feature; a name with ! takes no value.
_ABSENT = {
    "disks": "win2k-hack! hdb hdc hdd cdrom fda fdb blockdev mtdblock sd pflash iscsi snapshot!",
    "shared file systems": "fsdev virtfs",
    "other devices": "usbdevice usb! tpmdev watchdog",
    "network": "netdev",
    "display": "spice g full-screen! alt-grab! ctrl-grab! portrait! rotate",
    "sound": "audio-help! soundhw",
    "NUMA nodes": "numa",
    "other memory backends": "mem-path mem-prealloc!",
    "snapshots or checks of migratability": "loadvm only-migratable! dump-vmstate",
    "debugger": "s!",
    "firmware tables": "acpitable smbios fw_cfg option-rom dtb prom-env old-param!",
    "boot loader": "kernel initrd append shim",
    "log items": "d dfilter",
    "instruction counter": "icount singlestep! plugin",
    "guest random numbers": "seed",
    "means to change its user or root directory": "runas chroot",
    "configuration files to write or device settings": "writeconfig set",
    "preconfig state": "preconfig!",
    "policy for deprecated interfaces": "compat",
    "settings of its run": "run-with",
    "translated code": "perfmap! jitdump!",
    "Xen": "xen-domid xen-attach! xen-domid-restrict!",
    "semihosting": "semihosting! semihosting-config",
    "asynchronous teardown or lock profiling": "async-teardown! enable-sync-profile!",
}
_MISSING = {
    option.rstrip("!"): (feature, not option.endswith("!"))
    for feature, options in _ABSENT.items()
    for option in options.split()
}

_MACHINE_SWITCHES = frozenset(
    """acpi dump-guest-core fd-bootchk graphics hpet i8042 kernel-irqchip mem-merge pic pit sata
    smbus smm vmport""".split()  # noqa: SIM905
)


def takes_value(option: str) -> bool | None:
    """Return whether an option of QEMU takes a value; None if QEMU has no such option."""
    if option in FLAGS:
        return False
    if (
        option in _NOTHING
        or option in _ACCEPTED
        or option in ("k", "L", "echr", "cpu", "global", "audiodev")
    ):
        return True
    return _MISSING[option][1] if option in _MISSING else None


def apply(settings: Settings, option: str, value: str) -> None:
    """Accept a QEMU option that has no effect here; warnings go to `settings`.

    Raises:
        OptionError: The option asks for a feature that this program does not have.
    """
    if option == "cpu" and is_help(value):
        from qmpserver.vm.machine.options import CPU_MODELS

        settings.exit_with = listing("Available CPUs:", CPU_MODELS)
        return
    if option == "display" and is_help(value):
        settings.exit_with = listing("Available display backend types:", _NOTHING["display"])
        return
    warning = _check(option, value)
    if warning is not None:
        settings.warnings.append(f"-{option} {value}: warning: {warning}")
    # For -nographic, which places the monitor only if these leave it free.
    settings.defaults &= option != "nodefaults"
    settings.parallel_placed |= option == "parallel"


def _check(option: str, value: str) -> str | None:
    """Return a warning, if any, or raise OptionError."""
    if option in _MISSING:
        raise OptionError(f"this program has no {_MISSING[option][0]}")
    if option in _NOTHING and value not in _NOTHING[option]:
        raise OptionError(f"this program can only do '{_NOTHING[option][0]}'")
    if option in _ACCEPTED:
        given = parse_options(value, _ACCEPTED[option], implied=_IMPLIED.get(option))
        if option == "sandbox" and given.bool("enable"):
            return "this program does not restrict its system calls"
    if option == "cpu":
        from qmpserver.vm.machine.options import CPU_MODELS

        if value.partition(",")[0] not in CPU_MODELS:
            raise OptionError("the vCPUs are the host's; expected 'host' or 'max'")
    if option == "audiodev":
        audio = parse_members(value, "driver")
        if audio.get("driver") != "none":
            raise OptionError("this program can only do 'none'")
        if "id" not in audio:
            raise OptionError("Parameter 'id' is missing")
    if option == "global":
        return _global(value)
    return None


def _global(value: str) -> str:
    # QEMU, too, only warns of properties of devices that do not exist.
    settings = [f"{name}={setting}" for name, setting, _ in split_options(value)]
    if value.startswith("driver="):
        given = parse_options(value, kinds(string="driver property value"))
        settings = [f"{given.string('driver')}.{given.string('property')}={given.string('value')}"]
    elif "." not in value.partition("=")[0]:
        raise OptionError(f"Invalid parameter '{value.partition('=')[0]}'")
    return f"global {','.join(settings)} not used"


class MachineTypeError(OptionError):
    """An unknown machine type, which QEMU reports without the option in front."""


def check_machine(properties: Mapping[str, str]) -> None:
    """Check the type and the properties of `-machine`, without `accel`.

    Raises:
        MachineTypeError: The type is unknown.
        OptionError: A property is unknown, or asks for a feature that this program does not have.
    """
    from qmpserver.vm.machine.options import MACHINE_TYPES, VERSIONED

    name = properties.get("type", "qmpserver")
    if name not in MACHINE_TYPES and not name.startswith(tuple(VERSIONED.values())):
        raise MachineTypeError(
            "unsupported machine type", "Use -machine help to list supported machines"
        )
    for property_, value in properties.items():
        if property_ == "usb":
            if parse_bool(property_, value):
                raise OptionError("this program has no USB")
        elif property_ not in ("type", *_MACHINE_SWITCHES):
            raise OptionError(f"Property '{name}-machine.{property_}' not found")
