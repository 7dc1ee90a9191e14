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
    boot,
    devices,
    displays,
    drives,
    filesystems,
    machine,
    network,
    numa,
    onboard,
    ports,
    usb,
)
from qmpserver.standin.commandline.launch import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from qmpserver.standin.commandline.launch import Launch

    Handlers = Mapping[str, Callable[[Launch, str], None]]


def _one_by_one(*options: Handlers) -> Iterator[Handlers]:
    return ({name: handler} for group in options for name, handler in group.items())


# In the order in which QEMU creates what options describe: those of one stage in the order of the
# command line, by which drives, devices and displays get their names and places.
_STAGES: Sequence[Handlers] = [
    *_one_by_one(actions.OPTIONS, boot.OPTIONS, backends.OPTIONS, numa.OPTIONS, block.OPTIONS),
    filesystems.OPTIONS,
    drives.OPTIONS,
    *_one_by_one(onboard.OPTIONS, network.OPTIONS, usb.OPTIONS, ports.OPTIONS),
    {**devices.OPTIONS, **filesystems.DEVICES},
    displays.OPTIONS,
]

OPTIONS: Handlers = {name: handler for stage in _STAGES for name, handler in stage.items()}
"""The options that become state."""


def apply(options: Iterable[tuple[str, str]], launch: Launch) -> None:
    """Execute the options of a command line, given as names and values.

    Raises:
        OptionError: An option is refused; the message names it.
    """
    given = list(options)
    machine.check(launch, given)
    if launch.state.machine.defaults:
        given = onboard.with_defaults(launch, given)
    for stage in _STAGES:
        for name, value in [one for one in given if one[0] in stage]:
            try:
                stage[name](launch, value)
            except MachineError:
                raise
            except (CommandError, OptionError) as error:
                if isinstance(error, CommandError):
                    error = OptionError(error.desc)
                given_words = f"-{name} {value}".rstrip()
                raise OptionError(f"{given_words}: {error}", error.hint) from None
        if "numa" in stage and not launch.state.preconfig:
            numa.finish(launch)
        if "drive" in stage:
            if launch.state.machine.defaults:
                onboard.add_default_drives(launch, given)
            onboard.allot(launch, given)
            usb.add_controllers(launch)
            drives.connect(launch)
    drives.connect_virtio(launch)
