"""The settings that the command line makes, and the error for a command line that cannot be met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.releases import NEWEST, Release

if TYPE_CHECKING:
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


class Settings:
    """The values of all options. `None` or an empty list where an option was not given."""

    def __init__(self) -> None:
        self.given: set[str] = set()  # the names of the options that were given

        self.release: Release = NEWEST  # that the machine speaks as

        # The machine.
        self.accels: list[AccelOptions] = []  # of -accel
        self.machine_accels: list[str] = []  # of -machine accel=
        self.unknown_accels: list[str] = []  # a message for each, before a known one
        self.cpus = 1
        self.ram = DEFAULT_RAM  # in bytes
        self.ram_file: str | None = None
        self.objects: dict[str, tuple[str, dict[str, Any]]] = {}  # the type and properties, by id
        self.memory_backend: str | None = None  # the object that is the RAM
        self.guest: tuple[str, dict[str, str]] | None = None  # its name and its options
        self.bios: str | None = None
        self.drives: dict[str, str] = {}  # the images that wait for a device, by id
        self.boot_disk: str | None = None
        self.name: str | None = None
        self.process_name: str | None = None
        self.uuid: str | None = None
        self.fake: tuple[str, Scenario] | None = None  # the option's value, and its meaning
        self.machines: int | None = None  # of -fake machines=; None: one, without a number
        self.stopped = False
        self.incoming: str | None = None
        self.actions: Actions | None = None
        self.machine_options: list[tuple[str, str]] = []  # of a stand-in

        # Monitors.
        self.chardevs: list[str] = []
        self.monitors: list[tuple[str, str]] = []  # the option and its value
        self.devices: list[tuple[str, str, Chardev]] = []  # the devices of both
        self.http: tuple[str, HttpOptions] | None = None  # the option's value, and its meaning
        self.nographic = False
        self.defaults = True  # False with -nodefaults
        self.monitor_placed = False
        self.serial: str | None = None
        self.qtest: str | None = None
        self.qtest_log: str | None = None
        self.serial_placed = False
        self.parallel_placed = False

        # The process.
        self.fd_sets: list[tuple[str, int, int, str | None]] = []  # value, descriptor, set, note
        self.config: list[tuple[str, str]] = []  # of a file, to be parsed next
        self.pidfile: str | None = None
        self.daemonize = False
        self.fork_server: str | None = None  # the link
        self.log: str | None = None
        self.trace: list[str] = []  # names and patterns; a leading - disables
        self.trace_file: str | None = None
        self.timestamps = False
        self.guest_name = False
        self.warnings: list[str] = []
        self.exit_with: str | None = None  # print this and exit
