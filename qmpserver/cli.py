"""The program ``qmpserver``: QEMU-style options in, a running machine with its monitors out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import uvloop

from qmpserver import foreign, process
from qmpserver._version import VERSION
from qmpserver.accel import NAMES, AcceleratorError, AccelOptions, open_accelerator
from qmpserver.accel.engine import Controller, ReaperMode
from qmpserver.commandline import ACCEL, ACTION, MEMORY, MESSAGES, NAME, SMP
from qmpserver.commands import register_all
from qmpserver.commands.control import VERSION_INFO
from qmpserver.machine.guest import DirtyGuest, GuestError
from qmpserver.machine.machine import Machine
from qmpserver.machine.memory import Ram
from qmpserver.monitor import (
    FdAddress,
    Registry,
    Server,
    SocketChardev,
    StdioChardev,
    parse_chardev,
    parse_device,
)
from qmpserver.options import OptionError, parse_options, split_options
from qmpserver.qapi import Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from qmpserver.accel import Accelerator
    from qmpserver.commands.human import HumanMonitor
    from qmpserver.monitor import Device
    from qmpserver.options import Options
    from qmpserver.monitor.chardev import Chardev

SCHEMA = Path(__file__).parent / "schema" / "qapi-schema.json"
DEFAULT_RING_SIZE = 4096
DEFAULT_RAM = 128 << 20
MAX_CPUS = 1024

_Choice = TypeVar("_Choice", bound=str)
_log = logging.getLogger(__name__)


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
    "name": Help("NAME[,process=NAME]", "what query-name tells, and the process's own name"),
    "uuid": Help("UUID", "what query-uuid tells"),
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
    "chardev": Help(_CHARDEV, "a device to attach a monitor to"),
    "mon": Help("chardev=ID[,mode=readline|control][,pretty=on]", "a monitor on such a device"),
    "nographic": Help(
        "", "the monitor is on standard input and output, if no option has placed it"
    ),
    "pidfile": Help("FILE", "keep the process id in it, locked, while running"),
    "daemonize": Help("", "go on in the background as soon as monitors listen"),
    "D": Help("FILE", "write a log to it"),
    "msg": Help("[timestamp=on][,guest-name=on]", "what error messages begin with"),
    "version": Help("", "print the version and exit"),
    "help": Help("", "print this and exit"),
}
ALIASES = {"M": "machine", "h": "help"}
BACKENDS = ("file", "null", "pipe", "socket", "stdio")
ACTIONS = {
    "reboot": ("reset", "shutdown"),
    "shutdown": ("poweroff", "pause"),
    "panic": ("pause", "shutdown", "exit-failure", "none"),
    "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
}

_UUID = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True)
class Settings:
    """What the command line asks for."""

    accels: list[AccelOptions] = field(default_factory=list)
    machine_accels: list[str] = field(default_factory=list)
    cpus: int = 1
    ram: int = DEFAULT_RAM
    guest: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    process_name: str | None = None
    uuid: str | None = None
    stopped: bool = False
    actions: dict[str, str] = field(default_factory=dict)
    chardevs: list[str] = field(default_factory=list)
    monitors: list[tuple[str, str]] = field(default_factory=list)  # option, its value
    devices: list[tuple[str, str, Chardev]] = field(default_factory=list)  # those of both
    defaults: bool = True
    nographic: bool = False
    monitor_placed: bool = False
    serial_placed: bool = False
    parallel_placed: bool = False
    pidfile: str | None = None
    daemonize: bool = False
    log: str | None = None
    timestamps: bool = False
    guest_name: bool = False
    warnings: list[str] = field(default_factory=list)
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
    for option, value in _split(argv):
        with _named(option, value):
            _apply(settings, option, value)
    if settings.exit_with is None:
        _settle(settings)
    return settings


def _settle(settings: Settings) -> None:
    """Find what contradicts itself, and place the monitor that no option has placed."""
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
def _named(option: str, value: str) -> Iterator[None]:
    """Put the option in front of what is wrong with it."""
    given = f"-{option} {value}".rstrip()
    try:
        yield
    except OptionError as error:
        raise CommandLineError(f"{given}: {error}", error.hint) from None
    except AcceleratorError as error:
        raise CommandLineError(f"{given}: {error}") from None


def _split(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word == "-":
            raise CommandLineError(f"{word}: this program has no disks")
        name = word[2:] if word.startswith("--") else word[1:]
        name = ALIASES.get(name, name)
        takes = bool(OPTIONS[name].argument) if name in OPTIONS else foreign.argument(name)
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
        case "pidfile":
            settings.pidfile = value
        case "daemonize":
            settings.daemonize = True
        case "D":
            settings.log = value
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
            _foreign(settings, option, value)


def _foreign(settings: Settings, option: str, value: str) -> None:
    if option in ("cpu", "display") and value in ("help", "?"):
        known = foreign.CPU_MODELS if option == "cpu" else ("none",)
        heading = "CPUs" if option == "cpu" else "display backend types"
        settings.exit_with = _list(f"Available {heading}:", known)
        return
    warning = foreign.check(option, value)
    if warning is not None:
        settings.warnings.append(f"-{option} {value}: warning: {warning}")
    settings.defaults &= option != "nodefaults"
    settings.serial_placed |= option == "serial"
    settings.parallel_placed |= option == "parallel"


def _list(heading: str, names: Iterable[str]) -> str:
    return "\n".join((heading, *(f"  {name}" for name in names)))


def _machine(settings: Settings, value: str) -> None:
    if value in ("help", "?"):
        kinds = [f"{name:20} {text}" for name, text in foreign.MACHINE_TYPES.items()]
        settings.exit_with = "\n".join(("Supported machines are:", *kinds))
        return
    properties = {name: text for name, text, _ in split_options(value, "type")}
    accel = properties.pop("accel", None)
    foreign.check_machine(properties)
    if accel is not None:
        settings.machine_accels = accel.split(":")
        for name in settings.machine_accels:
            AccelOptions(name)


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise OptionError("failed to parse UUID string: wrong format")
    return value.lower()


def _action(settings: Settings, value: str) -> None:
    options = parse_options(value, ACTION)
    for name in options:
        action = options.string(name) or ""
        if action not in ACTIONS[name]:
            raise OptionError(f"Parameter '{name}' does not accept value '{action}'")
        settings.actions[name] = action


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
        _choice(options, "reaper", get_args(ReaperMode)),
        _choice(options, "dirty-limit", get_args(Controller)),
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
    lines = [f"qmpserver version {VERSION}", "usage: qmpserver [options]", ""]
    for name, option in OPTIONS.items():
        if option.text:
            lines.append(f"-{name} {option.argument}".rstrip())
            lines.append(f"        {option.text}")
    lines += [
        "",
        "-x and --x are the same. Without -accel: kvm with a dirty ring, else soft.",
        "Options of QEMU's that need nothing here are taken, as -nodefaults and -display none.",
    ]
    return "\n".join(lines)


async def run(settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
    """Run a machine and its monitors until it is shut down; `ready` is called when both are there.

    Raises:
        CommandLineError: It can't be had as asked for. Nothing is left behind then.
    """
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        ended = _Signals()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.by, number)
        if settings.pidfile is not None:
            stack.enter_context(process.pidfile(settings.pidfile))
        machine = await _make_machine(settings, stack)
        machine.uuid = settings.uuid or machine.uuid
        registry = Registry(Schema.load(SCHEMA))
        register_all(registry, machine)
        server = Server(registry, version=VERSION_INFO, human=lambda: _human_monitor(registry))
        stack.push_async_callback(server.close)
        machine.emit = server.emit
        ended.tell(machine)
        for opened in await _open_monitors(settings, server):
            if opened.waits:
                await _first(opened.wait_connected(), machine.finished.wait())
        machine.start(stopped=settings.stopped)
        await asyncio.sleep(0)  # a signal that came meanwhile
        if not machine.finished.is_set():
            ready()
            _log.info("ready")
        await machine.finished.wait()


class _Signals:
    """Signals that end the program, from the start on."""

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._number: int | None = None

    def by(self, number: int) -> None:
        """Take a signal."""
        self._number = number
        if self._machine is not None:
            process.report(f"terminating on signal {number}")
            self._machine.shutdown("host-signal")

    def tell(self, machine: Machine) -> None:
        """Shut `machine` down for a signal, also one that came before."""
        self._machine = machine
        if self._number is not None:
            self.by(self._number)


async def _open_monitors(settings: Settings, server: Server) -> list[Device]:
    devices: list[Device] = []
    for chardev in settings.chardevs:
        with _named("chardev", chardev):
            devices.append(server.add_chardev(chardev))
    for option, value in settings.monitors:
        with _named(option, value):
            if option == "mon":
                server.add_monitor(value)
                continue
            mode = "readline" if option == "monitor" else "control"
            pretty = option == "qmp-pretty"
            device = await server.listen(value, mode=mode, pretty=pretty)
            if device not in devices:
                devices.append(device)
    return devices


async def _make_machine(settings: Settings, stack: contextlib.AsyncExitStack) -> Machine:
    try:
        ram = Ram(settings.ram)
    except (OSError, ValueError) as error:
        raise CommandLineError(f"cannot set up guest memory 'ram': {error}") from None
    with contextlib.ExitStack() as undo:
        undo.callback(ram.close)
        try:
            accel, refused = open_accelerator(ram, settings.choices())
        except AcceleratorError as error:
            raise CommandLineError(str(error)) from None
        undo.callback(accel.close)
        if refused:
            process.report("; ".join(refused))
            process.report(f"falling back to {accel.name}")
        machine = _furnish(settings, ram, accel)
        undo.pop_all()
    stack.push_async_callback(machine.close)
    return machine


def _furnish(settings: Settings, ram: Ram, accel: Accelerator) -> Machine:
    try:
        guest = DirtyGuest(settings.guest, ram.buffer, settings.cpus, accel.clock_hz)
        guest.load()
        accel.add_vcpus(guest, settings.cpus)
    except (GuestError, AcceleratorError) as error:
        raise CommandLineError(str(error)) from None
    return Machine(ram, accel, guest, name=settings.name)


def _human_monitor(registry: Registry) -> HumanMonitor:
    from qmpserver.commands.human import HumanMonitor  # only with -monitor or -mon

    return HumanMonitor(registry)


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _check_passed(settings: Settings, passed: Sequence[int]) -> None:
    """Find a socket that clients would connect to in vain."""
    used = {
        device.address.fd
        for _, _, device in settings.devices
        if isinstance(device, SocketChardev) and isinstance(device.address, FdAddress)
    }
    for fd in passed:
        if fd not in used:
            raise CommandLineError(
                f"descriptor {fd} was passed by socket activation, but no option uses it",
                f"Use -qmp fd:{fd},server=on,wait=off",
            )


def _main() -> None:
    settings = parse_command_line(sys.argv[1:])
    if settings.exit_with is not None:
        print(settings.exit_with)
        return
    process.report.timestamps = settings.timestamps
    process.report.guest = settings.name if settings.guest_name else None
    for warning in settings.warnings:
        process.report(warning)
    _check_passed(settings, process.passed_descriptors(os.environ))
    if settings.log is not None:
        process.log_to(settings.log)
    if settings.process_name is not None:
        process.rename(settings.process_name)
    ready = process.daemonize() if settings.daemonize else lambda: None
    uvloop.run(run(settings, ready))


def main() -> None:
    """Run the program; exits with status 0, or 1 after one line that says what was wrong."""
    try:
        process.open_standard_descriptors()
        _main()
    except (CommandLineError, process.ProcessError) as error:
        process.report(str(error))
        hint = error.hint if isinstance(error, CommandLineError) else ""
        if hint:
            process.show(hint)
        sys.exit(1)
    except OSError as error:
        process.report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
