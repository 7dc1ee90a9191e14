"""The command line of QEMU as state: an option becomes the commands that do the same.

So an option is checked as a command is, by the schema and then by the state, in QEMU's words, and
every query shows the result. The options of monitors, and those that `MachineState` describes, are
not here: the program parses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline import (
    actions,
    backends,
    block,
    devices,
    displays,
    drives,
    filesystems,
    machine,
    network,
    onboard,
    usb,
)
from qmpserver.standin.commandline.launch import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpserver.standin.commandline.launch import Launch

OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {
    **actions.OPTIONS,
    **backends.OPTIONS,
    **block.OPTIONS,
    **filesystems.OPTIONS,
    **drives.OPTIONS,
    **onboard.OPTIONS,
    **network.OPTIONS,
    **usb.OPTIONS,
    **devices.OPTIONS,
    **displays.OPTIONS,
}
"""The options that become state, in the order in which QEMU creates what they describe."""


# Drives, devices and displays get their names and places in the order of the command line.
_STAGES = [
    *((name,) for name in (*actions.OPTIONS, *backends.OPTIONS, *block.OPTIONS, "fsdev")),
    tuple(drives.OPTIONS),
    *((name,) for name in (*onboard.OPTIONS, *network.OPTIONS, *usb.OPTIONS)),
    ("serial",),
    ("parallel",),
    ("device", "virtfs"),
    tuple(displays.OPTIONS),
]


def apply(options: Iterable[tuple[str, str]], launch: Launch) -> None:
    """Execute the options of a command line, given as names and values.

    Raises:
        OptionError: An option is refused; the message names it.
    """
    given = list(options)
    machine.check(launch, given)
    if launch.state.machine.defaults:
        given = onboard.with_defaults(launch, given)
    for names in _STAGES:
        for name, value in [one for one in given if one[0] in names]:
            try:
                OPTIONS[name](launch, value)
            except MachineError:
                raise
            except (CommandError, OptionError) as error:
                if isinstance(error, CommandError):
                    error = OptionError(error.desc)
                given_words = f"-{name} {value}".rstrip()
                raise OptionError(f"{given_words}: {error}", error.hint) from None
        if "drive" in names:
            if launch.state.machine.defaults:
                onboard.add_default_drives(launch, given)
            onboard.allot(launch, given)
            usb.add_controllers(launch)
            drives.connect(launch)
    drives.connect_virtio(launch)
