"""The settings that the command line makes, and the error for a command line that cannot be met."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpserver.releases import NEWEST, Release

if TYPE_CHECKING:
    from uuid import UUID

    from qmpserver.monitor.chardev import Chardev
    from qmpserver.standin import Scenario
    from qmpserver.vm.accel import AccelOptions
    from qmpserver.vm.machine.runstate import Actions
    from qmpserver.web.address import HttpOptions

DEFAULT_RAM = 128 << 20


class CommandLineError(Exception):
    """The command line is wrong, or this host cannot satisfy it.

    Args:
        message: One line for the user.
        hint: Further lines that say what would be right, if any.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Settings:
    """The values of all options. `None` or an empty list where an option was not given."""

    given: set[str] = field(default_factory=set)  # the names of the options that were given

    release: Release = NEWEST  # that the machine speaks as

    # The machine.
    accels: list[AccelOptions] = field(default_factory=list)  # of -accel
    machine_accels: list[str] = field(default_factory=list)  # of -machine accel=
    cpus: int = 1
    ram: int = DEFAULT_RAM  # in bytes
    guest: dict[str, str] | None = None
    bios: str | None = None
    name: str | None = None
    process_name: str | None = None
    uuid: UUID | None = None
    fake: tuple[str, Scenario] | None = None  # the option's value, and its meaning
    stopped: bool = False
    incoming: str | None = None
    actions: Actions | None = None
    machine_options: list[tuple[str, str]] = field(default_factory=list)  # of a stand-in

    # Monitors.
    chardevs: list[str] = field(default_factory=list)
    monitors: list[tuple[str, str]] = field(default_factory=list)  # the option and its value
    devices: list[tuple[str, str, Chardev]] = field(default_factory=list)  # the devices of both
    http: tuple[str, HttpOptions] | None = None  # the option's value, and its meaning
    nographic: bool = False
    defaults: bool = True  # False with -nodefaults
    monitor_placed: bool = False
    serial_placed: bool = False
    parallel_placed: bool = False

    # The process.
    config: list[tuple[str, str]] = field(default_factory=list)  # of a file, to be parsed next
    pidfile: str | None = None
    daemonize: bool = False
    log: str | None = None
    trace: list[str] = field(default_factory=list)  # names and patterns; a leading - disables
    trace_file: str | None = None
    timestamps: bool = False
    guest_name: bool = False
    warnings: list[str] = field(default_factory=list)
    exit_with: str | None = None  # print this and exit
