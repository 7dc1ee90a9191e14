"""Options of the process: its files, its messages, its place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qmpserver._version import VERSION
from qmpserver.cli import unsupported
from qmpserver.cli.help import help_text
from qmpserver.cli.invocation import is_qemu
from qmpserver.cli.table import OPTIONS, WithFake, option
from qmpserver.files import read_text
from qmpserver.keyval import OptionError, kinds, parse_options
from qmpserver.monitor.fds import LAST_STANDARD

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings
    from qmpserver.keyval import Options

_TRACE = kinds(string="enable events file")
_ADD_FD = kinds(number="fd set", string="opaque")
_MESSAGES = kinds(boolean="timestamp guest-name")


@option("pidfile", "FILE", "write the process id to FILE, locked while the program runs")
def set_pidfile(settings: Settings, value: str) -> None:
    """Keep a file with the process id."""
    settings.pidfile = value


@option("daemonize", "", "go to the background as soon as monitors listen")
def set_daemonize(settings: Settings, value: str) -> None:
    """Go to the background."""
    settings.daemonize = True


@option(
    "fork-server",
    "LINK",
    "fork a stand-in whenever LINK is called, a link to this program that is named as QEMU",
    with_fake=WithFake.REFUSED,
)
def set_fork_server(settings: Settings, value: str) -> None:
    """Be a fork server."""
    if not is_qemu(value):
        raise OptionError("the link must have a name of QEMU, such as qemu-system-x86_64")
    settings.fork_server = value


@option(
    "add-fd",
    "fd=N,set=N[,opaque=TEXT]",
    "put an inherited descriptor into a set, for paths such as /dev/fdset/N",
    group="add-fd",
    parameters=_ADD_FD,
)
def add_fd(settings: Settings, value: str) -> None:
    """Put a descriptor into a set."""
    options = parse_options(value, _ADD_FD)
    fd, number = _signed(options, "fd"), _signed(options, "set")
    if fd < 0:
        raise OptionError("fd option is required and must be non-negative")
    if fd <= LAST_STANDARD:
        raise OptionError("fd cannot be a standard I/O stream")
    if number < 0:
        raise OptionError("set option is required and must be non-negative")
    settings.fd_sets.append((value, fd, number, options.string("opaque")))


def _signed(options: Options, name: str) -> int:
    """Return the value of an option as a signed number of 64 bits; -1 if it is not there."""
    value = options.number(name, -1)
    return value - (1 << 64) if value >> 63 == 1 else value


@option("readconfig", "FILE", "read options from a configuration file, each a section")
def read_config_file(settings: Settings, value: str) -> None:
    """Read options from a file; they are parsed next."""
    from qmpserver.cli.readconfig import read_config

    options = read_config(value)
    for name, _ in options:
        if name not in OPTIONS and unsupported.takes_value(name) is None:
            raise OptionError(f"There is no option group '{name}'")
    settings.config += options


@option("D", "FILE", "write a log to FILE")
def set_log(settings: Settings, value: str) -> None:
    """Write a log."""
    settings.log = value


@option(
    "trace",
    "[enable=]PATTERN[,events=FILE][,file=FILE]",
    "record trace events, in the log or in a file; FILE.json is for Chrome and Perfetto",
    group="trace",
    parameters=_TRACE,
    with_fake=WithFake.IGNORED,
)
def set_trace(settings: Settings, value: str) -> None:
    """Enable or disable trace events."""
    options = parse_options(value, _TRACE, implied="enable")
    if (pattern := options.string("enable")) is not None:
        settings.trace.append(pattern)
    if (path := options.string("events")) is not None:
        try:
            lines = read_text(path).splitlines()
        except UnicodeDecodeError:
            raise OptionError(f"{path}: text is not UTF-8") from None
        except OSError as error:
            raise OptionError(f"{path}: {error.strerror}") from None
        settings.trace += [line for line in lines if line and not line.startswith("#")]
    settings.trace_file = options.string("file") or settings.trace_file


@option(
    "msg",
    "[timestamp=on][,guest-name=on]",
    "the prefix of error messages",
    group="msg",
    parameters=_MESSAGES,
)
def set_messages(settings: Settings, value: str) -> None:
    """Put the time, and the name of the guest, in front of messages."""
    options = parse_options(value, _MESSAGES)
    settings.timestamps = options.bool("timestamp")
    settings.guest_name = options.bool("guest-name")


@option("version", "", "print the version and exit")
def show_version(settings: Settings, value: str) -> None:
    """Print the version; that of its release for programs that start QEMU."""
    settings.exit_with = f"qmpserver version {VERSION}"
    if settings.fake is not None and is_qemu(sys.argv[0]):
        _, scenario = settings.fake
        settings.exit_with = f"QEMU emulator version {scenario.version}"


@option("help", "", "print this list and exit", alias="h")
def show_help(settings: Settings, value: str) -> None:
    """Print the list of options."""
    settings.exit_with = help_text(OPTIONS)
