"""Options that describe the machine itself, as changes to `MachineState`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import kinds, parse_bool, parse_options, split_options
from qmpserver.standin.parts import Topology

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMP = kinds(number="cpus maxcpus drawers books sockets dies clusters modules cores threads")


def changes(options: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the attributes of `MachineState` that a command line sets.

    Raises:
        OptionError: A value is malformed.
    """
    made: dict[str, Any] = {}
    for name, value in options:
        if name == "machine":
            for key, one, _ in split_options(value, "type"):
                if key == "type":
                    made["type"] = one
                elif key == "usb":
                    made["usb"] = parse_bool(key, one)
        elif name in ("usb", "usbdevice"):
            made["usb"] = True
        elif name == "cpu":
            made["cpu"] = value.partition(",")[0]
        elif name == "smp":
            given = parse_options(value, _SMP, implied="cpus")
            made["topology"] = Topology(*(given.number(one) for one in Topology._fields))
            places = math.prod(given.number(one, 1) for one in Topology._fields[1:])
            made["cpus"] = given.number("cpus", given.number("maxcpus", places))
    return made
