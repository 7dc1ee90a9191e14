"""Options of the machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, get_args

from qmpserver.cli import unsupported
from qmpserver.cli.help import is_help, listing
from qmpserver.cli.settings import DEFAULT_RAM
from qmpserver.cli.table import WithFake, option
from qmpserver.keyval import Kind, OptionError, kinds, parse_options, parse_uuid, split_options
from qmpserver.releases import NEWEST, RELEASES

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings
    from qmpserver.keyval import Options
    from qmpserver.vm.accel import AccelOptions, Controller, ReaperMode

MAX_CPUS = 1024

_ACCEL = kinds(string="accel reaper dirty-limit", number="dirty-ring-size")
_SMP = kinds(number="cpus maxcpus sockets dies clusters cores threads")
_MEMORY = {"size": Kind.SIZE_IN_MIB}
_NAME = kinds(string="guest process", boolean="debug-threads")
_ACTION = kinds(string="reboot shutdown panic watchdog")

_Choice = TypeVar("_Choice", bound=str)


@option(
    "accel",
    "kvm|soft|qtest[,dirty-ring-size=N][,dirty-limit=pacer|qemu][,reaper=event|poll]",
    "the accelerator that runs the vCPUs; repeat the option for a fallback",
    group="accel",
    parameters=_ACCEL,
    with_fake=WithFake.IGNORED,
)
def add_accelerator(settings: Settings, value: str) -> None:
    """Add an accelerator to the ones to try."""
    from qmpserver.vm.accel import NAMES, Controller, ReaperMode

    if is_help(value):
        settings.exit_with = listing("Accelerators supported in qmpserver:", NAMES, indent="")
        return
    options = parse_options(value, implied="accel")
    name = options.string("accel") or ""
    if name not in NAMES:  # QEMU tries the next one
        if not settings.accels:
            settings.unknown_accels.append(f"-accel {value}: invalid accelerator {name}")
        return
    for property_ in options:
        if property_ not in _ACCEL:
            raise OptionError(f"Property '{name}-accel.{property_}' not found")
    size = _number(options.string("dirty-ring-size") or "0", "dirty-ring-size", "uint64")
    reaper = _choice(options, "reaper", get_args(ReaperMode))
    limit = _choice(options, "dirty-limit", get_args(Controller))
    settings.accels.append(_accelerator(name, size, reaper, limit))


@option("enable-kvm", "", "the same as -accel kvm", with_fake=WithFake.IGNORED)
def use_kvm(settings: Settings, value: str) -> None:
    """Use KVM and nothing else."""
    settings.machine_accels = ["kvm"]


@option(
    "machine",
    "TYPE[,accel=NAME[:NAME...]][,memory-backend=ID]",
    "a machine type of QEMU; all types are the same machine here",
    alias="M",
    group="machine",
    parameters=kinds(string="type accel"),
    with_fake=WithFake.IGNORED,
)
def set_machine(settings: Settings, value: str) -> None:
    """Take the type of machine, and the accelerators to try."""
    if is_help(value):
        from qmpserver.vm.machine.options import MACHINE_TYPES

        first, *others = MACHINE_TYPES
        types = [f"{first:20} RAM and vCPUs, no device (default)"]
        types += [f"{name:20} the same" for name in others]
        settings.exit_with = listing("Supported machines are:", types, indent="")
        return
    properties = {name: text for name, text, _ in split_options(value, "type")}
    accel = properties.pop("accel", None)
    settings.memory_backend = properties.pop("memory-backend", None)
    unsupported.check_machine(properties)
    if accel is not None:
        from qmpserver.vm.accel import NAMES

        given = accel.split(":")
        settings.machine_accels = [name for name in given if name in NAMES]
        settings.unknown_accels = [
            f"invalid accelerator {name}" for name in given if name not in NAMES
        ]


@option(
    "smp",
    "[cpus=]N",
    "the number of vCPUs (1); their sockets, cores, ... have no effect",
    group="smp-opts",
    parameters=_SMP,
    with_fake=WithFake.IGNORED,
)
def set_cpus(settings: Settings, value: str) -> None:
    """Set the number of vCPUs."""
    options = parse_options(value, implied="cpus")
    numbers: dict[str, int] = {}
    for name in options:
        if name not in _SMP:
            raise OptionError(f"Parameter 'smp.{name}' is unexpected")
        numbers[name] = _number(options.string(name) or "", f"smp.{name}", "integer")
    cpus = numbers.get("cpus", numbers.get("maxcpus", math.prod(numbers.values())))
    if not 1 <= cpus <= MAX_CPUS:
        raise OptionError(f"Invalid SMP CPUs {cpus}; expected 1 to {MAX_CPUS}")
    settings.cpus = cpus


@option(
    "m",
    "[size=]SIZE",
    "the size of guest memory, in MiB without a unit (128)",
    group="memory",
    parameters=_MEMORY,
)
def set_memory(settings: Settings, value: str) -> None:
    """Set the size of guest memory."""
    size = parse_options(value, _MEMORY, implied="size").number("size") or DEFAULT_RAM
    size += -size % (8 << 10)  # QEMU rounds up like this
    if not 0 < size < 1 << 46:
        raise OptionError("invalid RAM size")
    settings.ram = size


@option(
    "guest",
    "dirty[,size=SIZE][,pattern=sequential|random|hotspot][,rate=MB/S]|stress[,size=SIZE]",
    "the built-in program that the vCPUs run",
    group="guest",
    parameters=kinds(string="guest pattern", number="pages rate", size="size"),
    with_fake=WithFake.REFUSED,
)
def set_guest(settings: Settings, value: str) -> None:
    """Choose the guest program; the guest itself checks its parameters."""
    options = parse_options(value, implied="guest")
    name = options.string("guest")
    if name not in ("dirty", "stress"):
        raise OptionError(f"there is no guest '{name}', only 'dirty' and 'stress'")
    settings.guest = name, {key: options.string(key) or "" for key in options if key != "guest"}


@option("bios", "FILE", "firmware for the vCPUs to run instead, on KVM", with_fake=WithFake.IGNORED)
def set_firmware(settings: Settings, value: str) -> None:
    """Run a firmware image."""
    settings.bios = value


@option(
    "name",
    "NAME[,process=NAME]",
    "the name that query-name returns, and the name of the process",
    group="name",
    parameters=_NAME,
)
def set_name(settings: Settings, value: str) -> None:
    """Name the machine and the process."""
    options = parse_options(value, _NAME, implied="guest")
    settings.name = options.string("guest")
    settings.process_name = options.string("process")


@option("uuid", "UUID", "the UUID that query-uuid returns")
def set_uuid(settings: Settings, value: str) -> None:
    """Give the machine a UUID."""
    settings.uuid = parse_uuid(value)


@option(
    "fake",
    "FILE|default[,schema=FILE][,version=X.Y.Z][,fault=NAME][,log=FILE][,machines=N]",
    "no machine, but a stand-in for QEMU that follows a scenario",
)
def use_stand_in(settings: Settings, value: str) -> None:
    """Run a stand-in; this reads the scenario."""
    from qmpserver.standin import Scenario, ScenarioError
    from qmpserver.standin import option as fake

    try:
        settings.fake = value, Scenario.from_option(value)
        settings.machines = fake.parse(value).machines
    except ScenarioError as error:
        raise OptionError(str(error)) from None


@option(
    "release",
    "|".join(reversed(list(RELEASES))),
    f"the release of QEMU that monitors speak as ({NEWEST.name})",
    with_fake=WithFake.REFUSED,
)
def set_release(settings: Settings, value: str) -> None:
    """Choose the schema, the version and the words of a release."""
    if value not in RELEASES:
        raise OptionError(f"there is no release '{value}', only {', '.join(RELEASES)}")
    settings.release = RELEASES[value]


@option("S", "", "do not start the vCPUs; `cont` does")
def leave_stopped(settings: Settings, value: str) -> None:
    """Leave the machine in prelaunch."""
    settings.stopped = True


@option(
    "incoming",
    "tcp:HOST:PORT|unix:PATH|fd:N|exec:COMMAND|file:PATH[,offset=N]|defer",
    "wait for the guest of another server; with defer, for `migrate-incoming`",
    with_fake=WithFake.IGNORED,
)
def wait_for_migration(settings: Settings, value: str) -> None:
    """Start in inmigrate."""
    settings.incoming = value


@option(
    "action",
    "[reboot=reset|shutdown][,shutdown=poweroff|pause]"
    "[,panic=pause|shutdown|exit-failure|none][,watchdog=ACTION]",
    "the reaction to a guest's reset, shutdown, panic or watchdog",
    group="action",
    parameters=_ACTION,
    with_fake=WithFake.IGNORED,
)
def set_actions(settings: Settings, value: str) -> None:
    """Set the reaction to events in the guest; actions that are not given stay."""
    from qmpserver.vm.machine import runstate

    options, actions = parse_options(value, _ACTION), settings.actions or runstate.Actions()
    if "reboot" in options:
        actions.reboot = _choice(options, "reboot", get_args(runstate.RebootAction))
    if "shutdown" in options:
        actions.shutdown = _choice(options, "shutdown", get_args(runstate.ShutdownAction))
    if "panic" in options:
        actions.panic = _choice(options, "panic", get_args(runstate.PanicAction))
    if "watchdog" in options:
        actions.watchdog = _choice(options, "watchdog", get_args(runstate.WatchdogAction))
    settings.actions = actions


@option("no-reboot", "", "the same as -action reboot=shutdown", with_fake=WithFake.IGNORED)
def set_no_reboot(settings: Settings, value: str) -> None:
    """End instead of a reset."""
    set_actions(settings, "reboot=shutdown")


@option("no-shutdown", "", "the same as -action shutdown=pause", with_fake=WithFake.IGNORED)
def set_no_shutdown(settings: Settings, value: str) -> None:
    """Stop instead of ending."""
    set_actions(settings, "shutdown=pause")


@option(
    "watchdog-action",
    "ACTION",
    "the same as -action watchdog=ACTION",
    with_fake=WithFake.IGNORED,
)
def set_watchdog_action(settings: Settings, value: str) -> None:
    """Set the reaction to a watchdog."""
    set_actions(settings, f"watchdog={value}")


def _accelerator(
    name: str, ring_size: int = 0, reaper: ReaperMode = "event", limit: Controller = "pacer"
) -> AccelOptions:
    from qmpserver.vm.accel import AcceleratorError, AccelOptions

    try:
        return AccelOptions(name, ring_size, reaper, limit)
    except AcceleratorError as error:
        raise OptionError(str(error)) from None


def _choice(options: Options, name: str, choices: tuple[_Choice, ...]) -> _Choice:
    """Return the member of `choices` that an option names; the first one by default."""
    value = options.string(name)
    if value is None:
        return choices[0]
    for choice in choices:
        if choice == value:
            return choice
    raise OptionError(f"Parameter '{name}' does not accept value '{value}'")


def _number(text: str, name: str, expected: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise OptionError(f"Parameter '{name}' expects {expected}")
    return int(text)
