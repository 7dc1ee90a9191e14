"""The command line, from words to settings.

The words of refusals are QEMU's where QEMU has them. `options` declares the options.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from typing import TYPE_CHECKING

from qmpserver.cli import unsupported
from qmpserver.cli.options import ALIASES, OPTIONS, WithFake
from qmpserver.cli.options.objects import take_memory_backend
from qmpserver.cli.settings import CommandLineError, Settings
from qmpserver.keyval import OptionError, parse_members, parse_options
from qmpserver.monitor import SocketChardev, StdioChardev
from qmpserver.monitor.chardev import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

# Keys of -chardev about other users of a device than the monitor: a stand-in has none.
_NO_EFFECT = re.compile(r",(?:mux|logappend)(?:=(?:on|off|yes|no))?(?=,|$)|,logfile=(?:[^,]|,,)*")


def parse_command_line(argv: Sequence[str]) -> Settings:
    """Return the settings that a command line makes.

    Raises:
        CommandLineError: The first error in it.
    """
    settings = Settings()
    stand_in = not {"-fake", "--fake"}.isdisjoint(argv)
    waiting = deque(_split(argv, disks=stand_in))
    simulated: set[str | None] = set()  # the ids of character devices
    while waiting:
        name, value = waiting.popleft()
        settings.given.add(name)
        if stand_in and name == "chardev":
            value = _NO_EFFECT.sub("", value)
        if stand_in:
            settings.machine_options.append((name, value))
            if name == "object" and (monitor := _monitor_of(value)) is not None:
                settings.monitors.append(("mon", monitor))
            if name not in OPTIONS or OPTIONS[name].with_fake is not WithFake.USED:
                continue
        if stand_in and name == "m":
            # Room for more memory is checked with the machine.
            value = re.sub(r"(?:^|,)(slots|maxmem)=[^,]*", "", value).lstrip(",")
        with named(name, value):
            if name in OPTIONS:
                try:
                    OPTIONS[name].apply(settings, value)
                except UnsupportedError:
                    if not stand_in:
                        raise
                    if name == "chardev":
                        simulated.add(parse_options(value, implied="backend").id)
            else:
                unsupported.apply(settings, name, value)
        waiting.extendleft(reversed(settings.config))
        settings.config.clear()
    settings.exit_with = _help(settings) or settings.exit_with
    if settings.exit_with is None:
        if stand_in:
            _leave_chardevs(settings, simulated)
        _place_monitor(settings)
        take_memory_backend(settings)
        _check_contradictions(settings)
    return settings


def _monitor_of(value: str) -> str | None:
    """Return the value of `-mon` for a monitor that `-object` describes; None for other objects."""
    try:
        given = parse_members(value, "qom-type")
    except OptionError:
        return None  # the stand-in refuses it
    mode = {"monitor-qmp": "control", "monitor-hmp": "readline"}.get(given.get("qom-type", ""))
    if mode is None or "chardev" not in given:
        return None
    pretty = ",pretty=on" if given.get("pretty") in (True, "on", "yes") else ""
    return f"chardev={given['chardev']},mode={mode}{pretty}"


@contextlib.contextmanager
def named(option: str, value: str) -> Iterator[None]:
    """Put an option and its value in front of the message of an `OptionError`.

    Raises:
        CommandLineError: The block raised an `OptionError`.
    """
    try:
        yield
    except unsupported.MachineTypeError as error:
        raise CommandLineError(str(error), error.hint) from None
    except OptionError as error:
        given = f"-{option} {value}".rstrip()
        raise CommandLineError(f"{given}: {error}", error.hint) from None


def _split(argv: Sequence[str], *, disks: bool) -> Iterator[tuple[str, str]]:
    """Pair the names of options with their values.

    A word that belongs to no option is the image of a disk; `disks` tells whether there are some.
    """
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or (word == "-" and not disks):
            if not disks:
                raise CommandLineError(f"{word}: this program has no disks")
            yield "hda", word
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        name = ALIASES.get(name, name)
        known = OPTIONS.get(name)
        takes_value = unsupported.takes_value(name) if known is None else bool(known.argument)
        if takes_value is None:
            raise CommandLineError(f"{word}: invalid option", "Use -help for the list of options.")
        value = ""
        if takes_value:
            try:
                value = next(words)
            except StopIteration:
                raise CommandLineError(f"{word}: requires an argument") from None
        yield name, value


def _help(settings: Settings) -> str | None:
    """Return the list that an option asks a stand-in of a release for; None if none does."""
    if settings.fake is None:
        return None
    from qmpserver.standin.commandline.help import help_text

    _, scenario = settings.fake
    if scenario.schema is not scenario.release.schema:
        return None
    texts = (
        help_text(option, value, scenario.release, scenario.schema)
        for option, value in settings.machine_options
    )
    return next((text for text in texts if text is not None), None)


def _leave_chardevs(settings: Settings, simulated: Container[str | None]) -> None:
    """Leave to the stand-in each character device that would connect, unless it is a monitor's.

    Its peer is a service of the machine's, such as a file system's; a stand-in needs none. A
    monitor on a simulated device is left out: no client can reach it.
    """
    monitors = set()
    for option, value in list(settings.monitors):
        with named(option, value):
            chardev = _chardev_of(option, value)
        if chardev is not None and chardev in simulated:
            settings.monitors.remove((option, value))
        monitors.add(chardev)
    for option, value, device in list(settings.devices):
        if (
            option == "chardev"
            and isinstance(device, SocketChardev)
            and not device.server
            and device.id not in monitors
        ):
            settings.devices.remove((option, value, device))
            settings.chardevs.remove(value)
    opened = set(settings.chardevs)
    settings.machine_options = [
        (option, value)
        for option, value in settings.machine_options
        if option != "chardev" or value not in opened
    ]


def _chardev_of(option: str, value: str) -> str | None:
    """Return the id of the character device that a monitor is on; None if it makes its own."""
    if option == "mon":
        return parse_options(value, implied="chardev").string("chardev")
    return value.removeprefix("chardev:") if value.startswith("chardev:") else None


def _place_monitor(settings: Settings) -> None:
    """Place the human monitor for `-nographic`, if no option has placed it."""
    if not (settings.nographic and settings.defaults):
        return
    everything = settings.monitor_placed and settings.serial_placed and settings.parallel_placed
    if settings.daemonize and not everything:
        raise CommandLineError("-nographic cannot be used with -daemonize")
    if not settings.monitor_placed:
        OPTIONS["monitor"].apply(settings, "stdio")


def _check_contradictions(settings: Settings) -> None:
    """Refuse options that exclude each other."""
    if settings.fake is not None:
        for name, option in OPTIONS.items():
            if name in settings.given and option.with_fake is WithFake.REFUSED:
                raise CommandLineError(f"-{name} cannot be used with -fake, which has no machine")
    programs = [("bios", settings.bios), ("guest", settings.guest), ("drive", settings.boot_disk)]
    first, *others = [f"-{name}" for name, given in programs if given is not None] or [""]
    if others:
        raise CommandLineError(
            f"{first} cannot be used with {others[0]}: the vCPUs run one of them"
        )
    if settings.accels and settings.machine_accels:
        raise CommandLineError('The -accel and "-machine accel=" options are incompatible')
    stdio = [given for *given, device in settings.devices if isinstance(device, StdioChardev)]
    if stdio and settings.daemonize:
        name, value = stdio[0]
        raise CommandLineError(f"-{name} {value}: cannot use stdio with -daemonize")
    if len(stdio) > 1:
        name, value = stdio[1]
        raise CommandLineError(f"-{name} {value}: cannot use stdio by multiple character devices")
