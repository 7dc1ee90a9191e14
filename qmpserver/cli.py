"""The program ``qmpserver``: QEMU-style options in, a running machine with its monitors out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, get_args

import uvloop

from qmpserver._version import VERSION
from qmpserver.accel import AcceleratorError, AccelOptions, open_accelerator
from qmpserver.accel.engine import Controller, ReaperMode
from qmpserver.commandline import ACCEL, MEMORY, NAME, SMP
from qmpserver.commands import register_all
from qmpserver.commands.control import VERSION_INFO
from qmpserver.machine.guest import DirtyGuest, GuestError
from qmpserver.machine.machine import Machine
from qmpserver.machine.memory import Ram
from qmpserver.monitor import Registry, Server
from qmpserver.options import OptionError, parse_options
from qmpserver.qapi import Schema

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from qmpserver.accel import Accelerator
    from qmpserver.commands.human import HumanMonitor
    from qmpserver.monitor import Device
    from qmpserver.options import Options

SCHEMA = Path(__file__).parent / "schema" / "qapi-schema.json"
DEFAULT_RING_SIZE = 4096
DEFAULT_RAM = 128 << 20
MAX_CPUS = 1024

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
    "machine": Help("TYPE[,accel=NAME[:NAME...]]", "as QEMU's; the type makes no difference"),
    "smp": Help(
        "[cpus=]N", "the number of vCPUs (1); their sockets, cores, ... make no difference"
    ),
    "m": Help("[size=]SIZE", "the guest's memory, in MiB if no unit is given (128)"),
    "guest": Help(_GUEST, "the program that the vCPUs run"),
    "name": Help("NAME", "what query-name tells"),
    "S": Help("", "do not start the vCPUs; `cont` does"),
    "qmp": Help("DEV", "a QMP monitor: unix:PATH or tcp:HOST:PORT,server=on,wait=off, or stdio"),
    "qmp-pretty": Help("DEV", "the same, with replies laid out for people"),
    "chardev": Help(_CHARDEV, "a device to attach a monitor to"),
    "mon": Help("chardev=ID[,mode=control][,pretty=on]", "a monitor on such a device"),
    "pidfile": Help("FILE", "write the process id to it while running"),
    "display": Help("none", "accepted, as -nographic, -nodefaults and -no-user-config are"),
    "nographic": Help("", ""),
    "nodefaults": Help("", ""),
    "no-user-config": Help("", ""),
    "version": Help("", "print the version and exit"),
    "help": Help("", "print this and exit"),
}
ALIASES = {"M": "machine", "h": "help"}


@dataclass(slots=True)
class Settings:
    """What the command line asks for."""

    accels: list[AccelOptions] = field(default_factory=list)
    machine_accels: list[str] = field(default_factory=list)
    cpus: int = 1
    ram: int = DEFAULT_RAM
    guest: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    stopped: bool = False
    chardevs: list[str] = field(default_factory=list)
    monitors: list[str] = field(default_factory=list)
    qmp: list[tuple[str, str]] = field(default_factory=list)  # -qmp or -qmp-pretty, device
    pidfile: str | None = None
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
    return settings


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
        name = word[2:] if word.startswith("--") else word[1:]
        name = ALIASES.get(name, name)
        if not word.startswith("-") or name not in OPTIONS:
            raise CommandLineError(f"{word}: invalid option", "Use -help to see what there is.")
        value = ""
        if OPTIONS[name].argument:
            try:
                value = next(words)
            except StopIteration:
                raise CommandLineError(f"{word}: requires an argument") from None
        yield name, value


def _apply(settings: Settings, option: str, value: str) -> None:
    match option:
        case "accel":
            settings.accels.append(_accel(value))
        case "machine":
            accel = parse_options(value, implied="type").string("accel")
            if accel is not None:
                settings.machine_accels = accel.split(":")
                for name in settings.machine_accels:
                    AccelOptions(name)
        case "smp":
            settings.cpus = _cpus(value)
        case "m":
            settings.ram = _ram(value)
        case "guest":
            settings.guest = _guest(value)
        case "name":
            settings.name = parse_options(value, NAME, implied="guest").string("guest")
        case "S":
            settings.stopped = True
        case "qmp" | "qmp-pretty":
            settings.qmp.append((option, value))
        case "chardev":
            settings.chardevs.append(value)
        case "mon":
            settings.monitors.append(value)
        case "pidfile":
            settings.pidfile = value
        case "display":
            if value != "none":
                raise OptionError(f"there is no display '{value}' here, only 'none'")
        case "version":
            settings.exit_with = f"qmpserver version {VERSION}"
        case "help":
            settings.exit_with = _help()


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
    lines += ["", "-x and --x are the same. Without -accel: kvm with a dirty ring, else soft."]
    return "\n".join(lines)


def _report(message: str) -> None:
    print(f"qmpserver: {message}", file=sys.stderr, flush=True)


async def run(settings: Settings) -> None:
    """Run a machine and its monitors until it is shut down.

    Raises:
        CommandLineError: It can't be had as asked for. Nothing is left behind then.
    """
    async with contextlib.AsyncExitStack() as stack:
        machine = await _make_machine(settings, stack)
        registry = Registry(Schema.load(SCHEMA))
        register_all(registry, machine)
        server = Server(registry, version=VERSION_INFO, human=lambda: _human_monitor(registry))
        stack.push_async_callback(server.close)
        machine.emit = server.emit
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, _terminate, machine, number)
        devices: list[Device] = []
        for chardev in settings.chardevs:
            with _named("chardev", chardev):
                devices.append(server.add_chardev(chardev))
        for monitor in settings.monitors:
            with _named("mon", monitor):
                server.add_monitor(monitor)
        for option, device in settings.qmp:
            with _named(option, device):
                devices.append(await server.listen(device, pretty=option == "qmp-pretty"))
        if settings.pidfile is not None:
            stack.enter_context(_pidfile(settings.pidfile))
        for opened in devices:
            if opened.waits:
                await _first(opened.wait_connected(), machine.finished.wait())
        machine.start(stopped=settings.stopped)
        await machine.finished.wait()


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
            _report("; ".join(refused))
            _report(f"falling back to {accel.name}")
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


def _terminate(machine: Machine, number: int) -> None:
    _report(f"terminating on signal {number}")
    machine.shutdown("host-signal")


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


@contextlib.contextmanager
def _pidfile(path: str) -> Iterator[None]:
    try:
        Path(path).write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError as error:
        raise CommandLineError(f"cannot create PID file: {path}: {error.strerror}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _fail(error: CommandLineError) -> NoReturn:
    _report(str(error))
    if error.hint:
        print(error.hint, file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """Run the program; exits with status 0, or 1 after one line that says what was wrong."""
    try:
        settings = parse_command_line(sys.argv[1:])
        if settings.exit_with is not None:
            print(settings.exit_with)
            return
        uvloop.run(run(settings))
    except CommandLineError as error:
        _fail(error)


if __name__ == "__main__":
    main()
