"""The command line: what there is to say on it, and what has been said.

The words of refusals are QEMU's where it has them.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, get_args
from uuid import UUID

from qmpserver._version import VERSION
from qmpserver.cli import unsupported
from qmpserver.cli.parameters import ACCEL, ACTION, MEMORY, MESSAGES, NAME, SMP, TRACE
from qmpserver.keyval import OptionError, parse_options, split_options
from qmpserver.monitor import StdioChardev, parse_chardev, parse_device
from qmpserver.vm.accel import NAMES, AcceleratorError, AccelOptions, Controller, ReaperMode
from qmpserver.vm.machine.options import NO_UUID
from qmpserver.vm.machine.runstate import (
    Actions,
    PanicAction,
    RebootAction,
    ShutdownAction,
    WatchdogAction,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qmpserver.keyval import Options
    from qmpserver.monitor.chardev import Chardev
    from qmpserver.web.address import HttpOptions

DEFAULT_RING_SIZE = 4096
DEFAULT_RAM = 128 << 20
MAX_CPUS = 1024
HELP_WIDTH = 80
HELP_INDENT = " " * 8

_Choice = TypeVar("_Choice", bound=str)


class CommandLineError(Exception):
    """What is wrong with the command line, in one line, and maybe a hint of more."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Help(NamedTuple):
    """An option's line in the help; no `argument` for a plain flag."""

    argument: str
    text: str


_ACCEL = "kvm|soft[,dirty-ring-size=N][,dirty-limit=pacer|qemu][,reaper=event|poll]"
_GUEST = "dirty[,size=SIZE][,pattern=sequential|random|hotspot][,rate=MB/S]"
_CHARDEV = "socket,id=ID,path=PATH|host=H,port=P[,server=on][,wait=off][,max-clients=N]"

OPTIONS = {
    "accel": Help(_ACCEL, "who runs the vCPUs; repeat it for a fallback"),
    "enable-kvm": Help("", "the same as -accel kvm"),
    "machine": Help("TYPE[,accel=NAME[:NAME...]]", "as QEMU's; the type makes no difference"),
    "smp": Help(
        "[cpus=]N", "the number of vCPUs (1); their sockets, cores, ... make no difference"
    ),
    "m": Help("[size=]SIZE", "the guest's memory, in MiB if no unit is given (128)"),
    "guest": Help(_GUEST, "the program that the vCPUs run"),
    "bios": Help("FILE", "firmware that the vCPUs run instead, on KVM"),
    "name": Help("NAME[,process=NAME]", "what query-name tells, and the process's own name"),
    "uuid": Help("UUID", "what query-uuid tells"),
    "fake": Help(
        "FILE|default[,schema=FILE][,fault=NAME][,log=FILE]",
        "no machine: a stand-in for QEMU that does what a scenario says",
    ),
    "S": Help("", "do not start the vCPUs; `cont` does"),
    "action": Help(
        "[reboot=reset|shutdown][,shutdown=poweroff|pause]"
        "[,panic=pause|shutdown|exit-failure|none][,watchdog=ACTION]",
        "what follows what the guest does",
    ),
    "no-reboot": Help("", "the same as -action reboot=shutdown"),
    "no-shutdown": Help("", "the same as -action shutdown=pause"),
    "watchdog-action": Help("ACTION", "the same as -action watchdog=ACTION"),
    "qmp": Help(
        "DEV",
        "a QMP monitor: unix:PATH, tcp:HOST:PORT or fd:N (server=on,wait=off), stdio, chardev:ID",
    ),
    "qmp-pretty": Help("DEV", "the same, with replies laid out for people"),
    "monitor": Help("DEV", "a monitor for people, or none"),
    "http": Help(
        "[HOST]:PORT[,tls-cert=FILE,tls-key=FILE]|unix:PATH[,token-file=FILE]",
        "a dashboard, QMP and metrics, for who has the token; without HOST on loopback",
    ),
    "chardev": Help(_CHARDEV, "a device to attach a monitor to"),
    "mon": Help("chardev=ID[,mode=readline|control][,pretty=on]", "a monitor on such a device"),
    "nographic": Help(
        "", "the monitor is on standard input and output, if no option has placed it"
    ),
    "pidfile": Help("FILE", "keep the process id in it, locked, while running"),
    "daemonize": Help("", "go on in the background as soon as monitors listen"),
    "D": Help("FILE", "write a log to it"),
    "trace": Help(
        "[enable=]PATTERN[,events=FILE][,file=FILE]",
        "record trace events, in the log or in a file; FILE.json is for Chrome and Perfetto",
    ),
    "msg": Help("[timestamp=on][,guest-name=on]", "what error messages begin with"),
    "version": Help("", "print the version and exit"),
    "help": Help("", "print this and exit"),
}
ALIASES = {"M": "machine", "h": "help"}
ABOUT_MACHINE = frozenset({"accel", "enable-kvm", "machine", "bios", "nographic"})
"""What, with all options that are QEMU's alone, makes no difference to a stand-in for QEMU."""
NEED_MACHINE = ("guest", "http", "trace", "action")
BACKENDS = ("file", "null", "pipe", "socket", "stdio")


@dataclass(slots=True)
class Settings:
    """What the command line asks for."""

    accels: list[AccelOptions] = field(default_factory=list)
    machine_accels: list[str] = field(default_factory=list)
    cpus: int = 1
    ram: int = DEFAULT_RAM
    guest: dict[str, str] | None = None
    name: str | None = None
    process_name: str | None = None
    uuid: UUID = NO_UUID
    stopped: bool = False
    bios: str | None = None
    actions: Actions = field(default_factory=Actions)
    chardevs: list[str] = field(default_factory=list)
    monitors: list[tuple[str, str]] = field(default_factory=list)  # option, its value
    devices: list[tuple[str, str, Chardev]] = field(default_factory=list)  # those of both
    http: tuple[str, HttpOptions] | None = None  # as it was given, and what it says
    defaults: bool = True
    nographic: bool = False
    monitor_placed: bool = False
    serial_placed: bool = False
    parallel_placed: bool = False
    pidfile: str | None = None
    daemonize: bool = False
    log: str | None = None
    trace: list[str] = field(default_factory=list)  # names and patterns; a leading - switches off
    trace_file: str | None = None
    timestamps: bool = False
    guest_name: bool = False
    warnings: list[str] = field(default_factory=list)
    fake: str | None = None
    given: set[str] = field(default_factory=set)  # the options that there were
    exit_with: str | None = None  # print this and do nothing

    def choices(self) -> list[AccelOptions]:
        """Return the accelerators to try, in order."""
        if self.accels:
            return self.accels
        if self.machine_accels:
            return [AccelOptions(name) for name in self.machine_accels]
        return [AccelOptions(name, DEFAULT_RING_SIZE) for name in ("kvm", "soft")]


def parse_command_line(argv: Sequence[str]) -> Settings:
    """Read the command line.

    Raises:
        CommandLineError: Its first fault, named as QEMU names it.
    """
    settings = Settings()
    stand_in = not {"-fake", "--fake"}.isdisjoint(argv)
    for option, value in _split(argv, disks=stand_in):
        settings.given.add(option)
        if stand_in and (option in ABOUT_MACHINE or option not in OPTIONS):
            continue
        if stand_in and option == "m":
            value = re.sub(r",(slots|maxmem)=[^,]*", "", value)  # room for memory to add
        with named(option, value):
            _apply(settings, option, value)
    if settings.exit_with is None:
        _settle(settings)
    return settings


def _settle(settings: Settings) -> None:
    """Find what contradicts itself, and place the monitor that no option has placed."""
    if settings.fake is not None:
        needing = [option for option in NEED_MACHINE if option in settings.given]
        if needing:
            raise CommandLineError(f"-{needing[0]} can't be had with -fake, which has no machine")
    if settings.bios is not None and settings.guest is not None:
        raise CommandLineError("-bios and -guest can't both be had: one of them is run")
    if settings.accels and settings.machine_accels:
        raise CommandLineError('The -accel and "-machine accel=" options are incompatible')
    if settings.nographic and settings.defaults:
        everything = settings.monitor_placed and settings.serial_placed and settings.parallel_placed
        if settings.daemonize and not everything:
            raise CommandLineError("-nographic cannot be used with -daemonize")
        if not settings.monitor_placed:
            _monitor(settings, "monitor", "stdio")
    stdio = [device for device in settings.devices if isinstance(device[2], StdioChardev)]
    for (option, value, _), clash in zip(stdio, (settings.daemonize, True), strict=False):
        if clash:
            reason = "with -daemonize" if settings.daemonize else "by multiple character devices"
            raise CommandLineError(f"-{option} {value}: cannot use stdio {reason}")


@contextlib.contextmanager
def named(option: str, value: str) -> Iterator[None]:
    """Put the option in front of what is wrong with it."""
    given = f"-{option} {value}".rstrip()
    try:
        yield
    except unsupported.MachineTypeError as error:
        raise CommandLineError(str(error), error.hint) from None
    except OptionError as error:
        raise CommandLineError(f"{given}: {error}", error.hint) from None
    except AcceleratorError as error:
        raise CommandLineError(f"{given}: {error}") from None


def _split(argv: Sequence[str], *, disks: bool) -> Iterator[tuple[str, str]]:
    """Pair options and values; what is no option is a disk's image, which may be there or not."""
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            if disks:
                continue
            raise CommandLineError(f"{word}: this program has no disks")
        name = word[2:] if word.startswith("--") else word[1:]
        name = ALIASES.get(name, name)
        takes = bool(OPTIONS[name].argument) if name in OPTIONS else unsupported.argument(name)
        if takes is None:
            raise CommandLineError(f"{word}: invalid option", "Use -help to see what there is.")
        value = ""
        if takes:
            try:
                value = next(words)
            except StopIteration:
                raise CommandLineError(f"{word}: requires an argument") from None
        yield name, value


def _apply(settings: Settings, option: str, value: str) -> None:
    match option:
        case "accel":
            if value in ("help", "?"):
                settings.exit_with = "\n".join(("Accelerators supported in qmpserver:", *NAMES))
            else:
                settings.accels.append(_accel(value))
        case "enable-kvm":
            settings.machine_accels = ["kvm"]
        case "machine":
            _machine(settings, value)
        case "smp":
            settings.cpus = _cpus(value)
        case "m":
            settings.ram = _ram(value)
        case "guest":
            settings.guest = _guest(value)
        case "bios":
            settings.bios = value
        case "name":
            named = parse_options(value, NAME, implied="guest")
            settings.name = named.string("guest")
            settings.process_name = named.string("process")
        case "uuid":
            settings.uuid = _uuid(value)
        case "S":
            settings.stopped = True
        case "action":
            _action(settings, value)
        case "no-reboot":
            _action(settings, "reboot=shutdown")
        case "no-shutdown":
            _action(settings, "shutdown=pause")
        case "watchdog-action":
            _action(settings, f"watchdog={value}")
        case "chardev":
            if value in ("help", "?"):
                settings.exit_with = _list("Available chardev backend types:", BACKENDS)
            else:
                settings.devices.append((option, value, parse_chardev(value)))
                settings.chardevs.append(value)
        case "qmp" | "qmp-pretty" | "monitor" | "mon":
            _monitor(settings, option, value)
        case "http":
            from qmpserver.web.address import parse_http  # secrets takes a while to import

            options = parse_http(value)
            settings.http = value, options
            if options.warning is not None:
                settings.warnings.append(f"-http {value}: warning: {options.warning}")
        case "fake":
            settings.fake = value
        case "pidfile":
            settings.pidfile = value
        case "daemonize":
            settings.daemonize = True
        case "D":
            settings.log = value
        case "trace":
            _trace(settings, value)
        case "msg":
            messages = parse_options(value, MESSAGES)
            settings.timestamps = messages.bool("timestamp")
            settings.guest_name = messages.bool("guest-name")
        case "nographic":
            settings.nographic = True
        case "version":
            settings.exit_with = f"qmpserver version {VERSION}"
        case "help":
            settings.exit_with = _help()
        case _:
            _take_foreign(settings, option, value)


def _take_foreign(settings: Settings, option: str, value: str) -> None:
    if option in ("cpu", "display") and value in ("help", "?"):
        known = unsupported.CPU_MODELS if option == "cpu" else ("none",)
        heading = "CPUs" if option == "cpu" else "display backend types"
        settings.exit_with = _list(f"Available {heading}:", known)
        return
    warning = unsupported.check(option, value)
    if warning is not None:
        settings.warnings.append(f"-{option} {value}: warning: {warning}")
    settings.defaults &= option != "nodefaults"
    settings.serial_placed |= option == "serial"
    settings.parallel_placed |= option == "parallel"


def _list(heading: str, names: Iterable[str]) -> str:
    return "\n".join((heading, *(f"  {name}" for name in names)))


def _machine(settings: Settings, value: str) -> None:
    if value in ("help", "?"):
        kinds = [f"{name:20} {text}" for name, text in unsupported.MACHINE_TYPES.items()]
        settings.exit_with = "\n".join(("Supported machines are:", *kinds))
        return
    properties = {name: text for name, text, _ in split_options(value, "type")}
    accel = properties.pop("accel", None)
    unsupported.check_machine(properties)
    if accel is not None:
        settings.machine_accels = accel.split(":")
        for name in settings.machine_accels:
            AccelOptions(name)


def _uuid(value: str) -> UUID:
    try:
        uuid = UUID(value)
    except ValueError:
        uuid = None
    if uuid is None or str(uuid) != value.lower():  # Python reads more forms than QEMU
        raise OptionError("failed to parse UUID string: wrong format")
    return uuid


def _action(settings: Settings, value: str) -> None:
    options, actions = parse_options(value, ACTION), settings.actions
    if "reboot" in options:
        actions.reboot = _choice(options, "reboot", get_args(RebootAction))
    if "shutdown" in options:
        actions.shutdown = _choice(options, "shutdown", get_args(ShutdownAction))
    if "panic" in options:
        actions.panic = _choice(options, "panic", get_args(PanicAction))
    if "watchdog" in options:
        actions.watchdog = _choice(options, "watchdog", get_args(WatchdogAction))


def _trace(settings: Settings, value: str) -> None:
    options = parse_options(value, TRACE, implied="enable")
    if (pattern := options.string("enable")) is not None:
        settings.trace.append(pattern)
    if (path := options.string("events")) is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise OptionError(f"{path}: {error.strerror}") from None
        settings.trace += [line for line in lines if line and not line.startswith("#")]
    settings.trace_file = options.string("file") or settings.trace_file


def _monitor(settings: Settings, option: str, value: str) -> None:
    settings.monitor_placed = True
    if option == "monitor" and value == "none":
        return
    if option != "mon" and not value.startswith("chardev:"):
        settings.devices.append((option, value, parse_device(value, option)))
    settings.monitors.append((option, value))


def _accel(value: str) -> AccelOptions:
    options = parse_options(value, implied="accel")
    name = options.string("accel") or ""
    AccelOptions(name)  # an unknown accelerator has no properties to complain of
    for property_ in options:
        if property_ not in ACCEL:
            raise OptionError(f"Property '{name}-accel.{property_}' not found")
    size = _number(options.string("dirty-ring-size") or "0", "dirty-ring-size", "uint64")
    return AccelOptions(
        name,
        size,
        reaper=_choice(options, "reaper", get_args(ReaperMode)),
        dirty_limit=_choice(options, "dirty-limit", get_args(Controller)),
    )


def _choice(options: Options, name: str, choices: tuple[_Choice, ...]) -> _Choice:
    """Return the one of `choices` that was asked for; the first of them by default."""
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


def _cpus(value: str) -> int:
    options = parse_options(value, implied="cpus")
    numbers: dict[str, int] = {}
    for name in options:
        if name not in SMP:
            raise OptionError(f"Parameter 'smp.{name}' is unexpected")
        numbers[name] = _number(options.string(name) or "", f"smp.{name}", "integer")
    shape = math.prod(numbers[name] for name in numbers.keys() - {"cpus", "maxcpus"})
    cpus = numbers.get("cpus", numbers.get("maxcpus", shape))
    if not 1 <= cpus <= MAX_CPUS:
        raise OptionError(f"Invalid SMP CPUs {cpus}, there can be 1 to {MAX_CPUS}")
    return cpus


def _ram(value: str) -> int:
    ram = parse_options(value, MEMORY, implied="size").number("size", DEFAULT_RAM)
    ram += -ram % (8 << 10)  # QEMU rounds so
    if not 0 < ram < 1 << 46:
        raise OptionError("invalid RAM size")
    return ram


def _guest(value: str) -> dict[str, str]:
    options = parse_options(value, implied="guest")
    name = options.string("guest")
    if name != "dirty":
        raise OptionError(f"there is no guest '{name}' here, only 'dirty'")
    return {key: options.string(key) or "" for key in options if key != "guest"}


def _help() -> str:
    import textwrap

    lines = [f"qmpserver version {VERSION}", "usage: qmpserver [options]", ""]
    for name, option in OPTIONS.items():
        if option.text:
            lines += _folded(f"-{name} {option.argument}".rstrip())
            lines += textwrap.wrap(
                option.text,
                HELP_WIDTH,
                initial_indent=HELP_INDENT,
                subsequent_indent=HELP_INDENT,
                break_on_hyphens=False,
                break_long_words=False,
            )
    lines += [
        "",
        "-x and --x are the same. Without -accel: kvm with a dirty ring, else soft.",
        "Options of QEMU's that need nothing here are taken: -nodefaults, -display none.",
    ]
    return "\n".join(lines)


def _folded(usage: str) -> list[str]:
    """Break it in front of what is optional, where it is too long."""
    lines = [""]
    for part in re.split(r"(?=\[,)", usage):
        if len(lines[-1] + part) > HELP_WIDTH:
            lines.append(HELP_INDENT[1:])
        lines[-1] += part
    return lines
