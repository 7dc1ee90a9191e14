"""Facts about a release that no command changes: its types, machines, CPU models and devices.

They are QEMU's own answers, with the accelerator TCG; `tests/qemu/facts.py` records them, each
release into a file beside its schema.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.files import read_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_GZIP_WBITS = 31
_COLD_ONLY = ("not support hotplugging", "not be hotplugged", "Parameter 'driver' ")


class Bus(NamedTuple):
    """A bus of a machine or of a device.

    Attributes:
        name: Its name; `{id}` in it stands for the id of its device.
        type: Its type.
        parent: Name of the bus that its device is on; None for the one above all others.
        hot: Whether devices can be plugged in and out while a machine runs.
    """

    name: str
    type: str
    parent: str | None
    hot: bool


class Device(NamedTuple):
    """A type of device.

    Attributes:
        name: The type.
        bus: Type of the bus that it is plugged into; None for one without a bus.
        refused: Why no such device can be added; None for one that can.
        taken_by: A part of the names of the machines that take it although it is refused.
        cold: Why it is refused at the start of a machine if it is given no property; None if it is
            taken, or if that is not known.
        hot: The same while a machine runs.
        buses: The buses that it makes.
        owners: Types of the objects inside that have some of its properties, by property.
    """

    name: str
    bus: str | None
    refused: str | None
    taken_by: str | None
    cold: str | None
    hot: str | None
    buses: tuple[Bus, ...]
    owners: Mapping[str, str]

    @property
    def cold_only(self) -> bool:
        """Whether its devices are there from the start, or never."""
        words = self.hot or ""
        return any(part in words for part in _COLD_ONLY)

    def owner(self, property_: str) -> str:
        """Return the type of the object that has a property, as errors name it."""
        return self.owners.get(property_, self.name)


class Function(NamedTuple):
    """A PCI function that a machine has without more devices.

    Attributes:
        driver: Its type.
        addr: Its address on the bus, slot * 8 + function.
        multifunction: Whether its slot may have more functions.
        shown: What `query-pci` shows of it, besides its place, before firmware has run.
    """

    driver: str
    addr: int
    multifunction: bool
    shown: Mapping[str, Any]


class Facts:
    """The facts about a release. Any thread may use them; nobody may change what they return.

    Attributes:
        answers: Results of commands that take no arguments, and of `query-cpu-model-expansion` by
            its type.
        types: Parent and abstractness of each type, as `qom-list-types` returns them.
        preconfig: The commands that are permitted before the machine is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the facts from a file.

        Raises:
            OSError: The file cannot be read.
        """
        found: dict[str, Any] = json.loads(zlib.decompress(read_bytes(path), _GZIP_WBITS))
        self.answers: dict[str, Any] = found["answers"]
        self.types: dict[str, dict[str, Any]] = {one["name"]: one for one in found["types"]}
        self.preconfig: frozenset[str] = frozenset(found["preconfig"])
        self._properties: list[dict[str, Any]] = found["properties"]
        self._lists: list[list[int]] = found["lists"]
        self._listed: dict[str, dict[str, int]] = found["listed"]
        self._devices: dict[str, dict[str, Any]] = found["devices"]
        self._made: dict[str, Device] = {}
        self._machines: dict[str, list[list[Any]]] = found["machines"]
        self._functions: dict[str, dict[str, list[dict[str, Any]]]] = found["functions"]
        self._aliases = {
            one["alias"]: name for name, one in self._devices.items() if "alias" in one
        }

    def line(self, name: str | None) -> list[str]:
        """Return a type and its ancestors, the nearest first."""
        line = []
        while name is not None:
            line.append(name)
            name = self.types.get(name, {}).get("parent")
        return line

    def properties(self, command: str, type_: str) -> list[dict[str, Any]] | None:
        """Return what `device-list-properties` or `qom-list-properties` lists; None: refused."""
        index = self._listed[command].get(type_)
        return None if index is None else [self._properties[i] for i in self._lists[index]]

    def device(self, name: str) -> Device | None:
        """Return a type of device by its name or alias; None if there is no such type."""
        name = self._aliases.get(name, name)
        one = self._devices.get(name)
        if one is None or name in self._made:
            return self._made.get(name)
        refused, taken_by, cold, hot = map(one.get, ("refused", "taken_by", "cold", "hot"))
        buses = tuple(Bus(*bus) for bus in one.get("buses", ()))
        owners = one.get("owners", {})
        made = Device(name, one["bus"], refused, taken_by, cold, hot, buses, owners)
        self._made[name] = made
        return made

    def pluggable(self) -> list[tuple[str, str]]:
        """Return the types of devices that can be added to a bus, each with the bus's type."""
        devices = sorted(self._devices.items())
        return [(name, one["bus"]) for name, one in devices if one["bus"] and "refused" not in one]

    def machine(self, name: str) -> tuple[str, tuple[Bus, ...]] | None:
        """Return name and buses of a machine by its name or alias; None: they are not known."""
        for one in self.answers["query-machines"]:
            if name in (one["name"], one.get("alias")) and one["name"] in self._machines:
                return one["name"], tuple(Bus(*bus) for bus in self._machines[one["name"]])
        return None

    def own_functions(self, machine: str) -> list[Function]:
        """Return the PCI functions of a machine by its name."""
        return [Function(**one) for one in self._functions["machines"].get(machine, ())]

    def function(self, driver: str, *, express: bool) -> dict[str, Any] | None:
        """Return what `query-pci` shows of a device's function, besides its place.

        Args:
            driver: The type, by its name.
            express: Whether it is on a PCIe bus behind a port.

        Returns:
            What it shows before firmware has run; None if that is not known.
        """
        devices = self._functions["devices"]
        # One that needs a back end outside of QEMU shows what its brother does.
        found = devices.get(driver) or devices.get(re.sub("^vhost(-user)?-", "virtio-", driver))
        return None if found is None else found[-1 if express else 0]
