"""The option that describes NUMA nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError
from qmpserver.standin.commandline.launch import by_machine
from qmpserver.standin.state import numa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.standin.commandline.launch import Launch


def _numa(launch: Launch, value: str) -> None:
    given = launch.flat("set-numa-node", value, "type")
    if given.get("mem", "").isdecimal():
        given["mem"] += "M"
    try:
        launch.execute("set-numa-node", given, flat=True)
    except OptionError as error:
        words, _, hint = str(error).partition("\n")
        raise OptionError(words, hint) from None


def finish(launch: Launch) -> None:
    """Check all nodes, and give each vCPU one.

    Raises:
        MachineError: The nodes are not complete.
    """
    with by_machine():
        numa.finish(launch.state)


OPTIONS: Mapping[str, Callable[[Launch, str], None]] = {"numa": _numa}
