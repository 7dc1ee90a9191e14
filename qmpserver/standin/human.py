"""The human monitor of a stand-in: QEMU's commands for the state that a stand-in has.

Those that a real machine has too are in `qmpserver.human`. QEMU's other commands are accepted, and
show nothing.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from qmpserver import human
from qmpserver.keyval import OptionError, parse_members
from qmpserver.monitor.hmp import HumanCommand
from qmpserver.qmp import CommandError
from qmpserver.releases import RELEASES
from qmpserver.standin.commandline import OPTIONS
from qmpserver.standin.commandline.drives import INTERFACES, add_drive, default_interface, files_of
from qmpserver.standin.commandline.launch import last_members
from qmpserver.standin.commandline.typed import typed
from qmpserver.standin.humanblock import COMMANDS as BLOCK_COMMANDS
from qmpserver.standin.humandisplay import COMMANDS as DISPLAY_COMMANDS
from qmpserver.standin.humandisplay import INFO as DISPLAY_INFO
from qmpserver.standin.humaninfo import INFO
from qmpserver.standin.state.block import images
from qmpserver.standin.state.block.disks import delete_drive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmpserver.releases import Release
    from qmpserver.standin.commandline.launch import Launch

_OURS = "dirty_ring"  # of a real machine of this program alone


class HumanMonitor(human.HumanMonitor):
    """One human monitor, which executes lines through QMP commands.

    Args:
        launch: The QMP commands and the state.
        release: The release to speak as.
        shutdown: Function that ends the stand-in, for a reason.
        terminal: True on a terminal: `migrate` waits for its end.

    Attributes:
        state: The state.
        launch: The QMP commands and the state.
    """

    def __init__(
        self,
        launch: Launch,
        release: Release,
        shutdown: Callable[[str], None],
        *,
        terminal: bool = False,
    ) -> None:
        table = _tables(release.name)
        super().__init__(launch.commands, table, release=release, terminal=terminal)
        self.state = launch.state
        self.launch = launch
        self._shutdown = shutdown

    async def quit(self) -> None:
        """End the stand-in."""
        self._shutdown("host-qmp-quit")

    def unknown(self, text: str) -> str:
        """Return what to show for an unknown command: nothing, it may be one of QEMU's."""
        return ""

    def give(self, option: str, value: str) -> None:
        """Do what an option of the command line does.

        Raises:
            CommandError: The option is refused.
        """
        try:
            OPTIONS[option](self.launch, value)
        except OptionError as error:
            raise CommandError(str(error)) from None


@functools.cache
def _tables(release: str) -> tuple[HumanCommand, ...]:
    """Return the table of all commands of a release."""
    return tuple(
        one._replace(sub_table=tuple(sub for sub in one.sub_table if sub.name != _OURS))
        for one in human.commands(RELEASES[release], COMMANDS, (*INFO, *DISPLAY_INFO))
    )


def _given(option: str) -> Callable[..., Awaitable[str]]:
    """Return a handler that does what an option does."""

    async def run(monitor: HumanMonitor, value: str = "") -> str:
        monitor.give(option, value)
        return ""

    return run


def _removed(command: str) -> Callable[..., Awaitable[str]]:
    """Return a handler that executes a QMP command with an id."""

    async def run(monitor: HumanMonitor, id: str) -> str:  # noqa: A002 -- QEMU's name
        await monitor.qmp(command, id=id)
        return ""

    return run


async def _balloon(monitor: HumanMonitor, value: int) -> str:
    await monitor.qmp("balloon", value=value << 20)
    return ""


async def _drive_add(monitor: HumanMonitor, address: str, value: str, nodes: bool = False) -> str:
    del address  # the drive's device is another command
    if nodes:
        try:
            await _add_node(monitor, value)
        except CommandError as error:
            return _drive_error(monitor, error)
        return ""
    given = last_members(value, "file")
    interface = given.get("if", default_interface(monitor.launch))
    if interface in INTERFACES and interface != "none":
        refused = CommandError(f"Can't hot-add drive to type {INTERFACES.index(interface)}")
        return _drive_error(monitor, refused)
    if monitor.state.drives.named(given.get("id")) is not None:
        return f"Duplicate ID '{given['id']}' for drive\n"
    found = await images.look(files_of(given))
    try:
        add_drive(monitor.launch, given, found)
    except OptionError as error:
        return _drive_error(monitor, CommandError(str(error)))
    except CommandError as error:
        return _drive_error(monitor, error)
    return "OK\n"


async def _add_node(monitor: HumanMonitor, value: str) -> None:
    """Add a block node as an option describes it; the command may wait for a file."""
    declared = monitor.launch.commands.schema.commands.get("blockdev-add")
    if declared is None:
        return
    try:
        members = typed(parse_members(value, "driver"), declared.arguments)
    except OptionError as error:
        raise CommandError(str(error)) from None
    await monitor.qmp("blockdev-add", **members)


def _drive_error(monitor: HumanMonitor, error: CommandError) -> str:
    """Return an error of a drive to show, if the release shows it bare; raise it otherwise."""
    if not monitor.release.bare_drive_errors:
        raise error
    return f"{error.desc}\n"


async def _drive_del(monitor: HumanMonitor, id: str) -> str:  # noqa: A002 -- QEMU's name
    try:
        if id in monitor.state.nodes:
            await monitor.qmp("blockdev-del", **{"node-name": id})
        else:
            delete_drive(monitor.state, id)
    except CommandError as error:
        return _drive_error(monitor, error)
    return ""


async def _qom_list(monitor: HumanMonitor, path: str = "/") -> str:
    found = await monitor.qmp("qom-list", path=path)
    return "".join(f"{one['name']} ({one['type']})\n" for one in found)


async def _qom_get(monitor: HumanMonitor, path: str, property: str) -> str:  # noqa: A002
    return f"{json.dumps(await monitor.qmp('qom-get', path=path, property=property))}\n"


COMMANDS = (
    HumanCommand(
        "balloon",
        "value:l",
        "target",
        "request VM to change its memory allocation (in MB)",
        _balloon,
    ),
    *BLOCK_COMMANDS,
    *DISPLAY_COMMANDS,
    HumanCommand("chardev-add", "value:s", "args", "add chardev", _given("chardev")),
    HumanCommand("chardev-remove", "id:s", "id", "remove chardev", _removed("chardev-remove")),
    HumanCommand(
        "device_add",
        "value:O",
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        _given("device"),
    ),
    HumanCommand("device_del", "id:s", "device", "remove device", _removed("device_del")),
    HumanCommand(
        "drive_add",
        "nodes:-n,address:s,value:s",
        "[-n] [[<domain>:]<bus>:]<slot>\n[file=file][,if=type][,bus=n]\n"
        "[,unit=m][,media=d][,index=i]\n[,snapshot=on|off][,cache=on|off]\n"
        "[,readonly=on|off][,copy-on-read=on|off]",
        "add drive to PCI storage controller",
        _drive_add,
    ),
    HumanCommand("drive_del", "id:B", "device", "remove host block device", _drive_del),
    HumanCommand(
        "netdev_add",
        "value:O",
        "[user|tap|socket|stream|dgram|vde|bridge|hubport|netmap|vhost-user|passt],id=str"
        "[,prop=value][,...]",
        "add host network device",
        _given("netdev"),
    ),
    HumanCommand("netdev_del", "id:s", "id", "remove host network device", _removed("netdev_del")),
    HumanCommand(
        "object_add",
        "value:S",
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        _given("object"),
    ),
    HumanCommand("object_del", "id:s", "id", "destroy QOM object", _removed("object-del")),
    HumanCommand("qom-get", "path:s,property:s", "path property", "print QOM property", _qom_get),
    HumanCommand("qom-list", "path:s?", "path", "list QOM properties", _qom_list),
    HumanCommand(
        "system_wakeup", "", "", "wakeup guest from suspend", human.silent("system_wakeup")
    ),
)
