"""Options of monitors and their devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.cli.help import is_help, listing
from qmpserver.cli.table import WithFake, option
from qmpserver.keyval import OptionError
from qmpserver.monitor import CHARDEV_OPTIONS, MONITOR_OPTIONS, parse_chardev, parse_device

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings

BACKENDS = ("file", "null", "pipe", "pty", "socket", "stdio")


@option(
    "qmp",
    "DEV",
    "a QMP monitor: unix:PATH, tcp:HOST:PORT or fd:N (server=on,wait=off), stdio, chardev:ID",
)
def add_qmp(settings: Settings, value: str) -> None:
    """Add a QMP monitor."""
    _add_monitor(settings, "qmp", value)


@option("qmp-pretty", "DEV", "the same, with indented replies")
def add_pretty_qmp(settings: Settings, value: str) -> None:
    """Add a QMP monitor with indented replies."""
    _add_monitor(settings, "qmp-pretty", value)


@option("monitor", "DEV", "a human monitor, or none")
def add_human_monitor(settings: Settings, value: str) -> None:
    """Add a human monitor; `none` keeps -nographic from adding one."""
    if value == "none":
        settings.monitor_placed = True
    else:
        _add_monitor(settings, "monitor", value)


@option(
    "http",
    "[HOST]:PORT[,tls-cert=FILE,tls-key=FILE]|unix:PATH[,token-file=FILE]",
    "a dashboard, QMP and metrics for holders of the token; on loopback without HOST",
    with_fake=WithFake.REFUSED,
)
def set_http(settings: Settings, value: str) -> None:
    """Serve HTTP."""
    from qmpserver.web.address import parse_http  # its imports take a while

    options = parse_http(value)
    settings.http = value, options
    if options.warning is not None:
        settings.warnings.append(f"-http {value}: warning: {options.warning}")


@option(
    "chardev",
    "socket,id=ID,path=PATH|host=H,port=P[,server=on][,wait=off][,max-clients=N]",
    "a device for -mon",
    group="chardev",
    parameters=CHARDEV_OPTIONS,
)
def add_chardev(settings: Settings, value: str) -> None:
    """Add a character device."""
    if is_help(value):
        settings.exit_with = listing("Available chardev backend types:", BACKENDS)
        return
    settings.devices.append(("chardev", value, parse_chardev(value)))
    settings.chardevs.append(value)


@option(
    "mon",
    "chardev=ID[,mode=readline|control][,pretty=on]",
    "a monitor on a device of -chardev",
    group="mon",
    parameters=MONITOR_OPTIONS,
)
def add_monitor_on_chardev(settings: Settings, value: str) -> None:
    """Add a monitor on a character device; the value is parsed when the monitor opens."""
    settings.monitor_placed = True
    settings.monitors.append(("mon", value))


@option(
    "serial",
    "DEV",
    "where the guest's first serial port goes: file:PATH, unix:PATH, stdio, chardev:ID, ...",
    with_fake=WithFake.IGNORED,
)
def set_serial(settings: Settings, value: str) -> None:
    """Place the serial port."""
    settings.serial_placed = True
    if value == "none":
        return
    if settings.serial is not None:
        raise OptionError("this program has one serial port")
    if value.startswith("mon:"):
        raise OptionError("this program has no device that a monitor and a serial port share")
    if not value.startswith("chardev:"):
        settings.devices.append(("serial", value, parse_device(value, "serial0")))
    settings.serial = value


@option("qtest", "DEV", "QEMU's test protocol on a device: a test reads and writes guest memory")
def set_qtest(settings: Settings, value: str) -> None:
    """Serve tests of QEMU's own."""
    settings.devices.append(("qtest", value, parse_device(value, "qtest")))
    settings.qtest = value


@option("qtest-log", "FILE", "where the lines of -qtest are written, both ways")
def set_qtest_log(settings: Settings, value: str) -> None:
    """Log the test protocol."""
    settings.qtest_log = value


@option(
    "nographic",
    "",
    "the human monitor is on standard input and output, unless an option has placed it",
    with_fake=WithFake.IGNORED,
)
def set_nographic(settings: Settings, value: str) -> None:
    """Place the human monitor on standard input and output unless other options place it."""
    settings.nographic = True


def _add_monitor(settings: Settings, option: str, value: str) -> None:
    settings.monitor_placed = True
    if not value.startswith("chardev:"):
        settings.devices.append((option, value, parse_device(value, option)))
    settings.monitors.append((option, value))
