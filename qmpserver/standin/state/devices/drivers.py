"""Types of devices: which ones a machine takes, on which bus, and with which properties.

The release's facts tell. A machine or a schema that is not the release's takes any device, and so
does a machine whose scenario says that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.devices import properties
from qmpserver.standin.state.devices.buses import Buses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.releases.facts import Device, Facts
    from qmpserver.standin.state.budget import Budget
    from qmpserver.standin.state.devices.buses import Node

# Members of `device_add` that are no properties.
_MEMBERS = ("driver", "id", "bus")
_EXPRESS_ONLY = " devices cannot reside on a PCI bus"  # the end of a refusal


class Drivers:
    """The types of devices and the buses of one machine.

    Args:
        facts: The facts of its release.
        machine: The machine's type.
        budget: What the buses of devices take their memory from.
        checks: False, or a machine that the facts lack: any device is taken.

    Attributes:
        machine: The machine's type; an alias stands for a type of the release.
        known: Whether the facts tell which devices the machine takes.
        buses: The machine's buses.
    """

    def __init__(self, facts: Facts, machine: str, budget: Budget, *, checks: bool) -> None:
        known = facts.machine(machine)
        self._all_facts = facts
        self.known = known is not None and checks
        self._facts = facts if self.known else None
        self.machine, buses = known or (machine, ())
        self.buses = Buses(buses, budget)

    @property
    def family(self) -> str:
        """The kind of PC that the machine is: `pc`, `q35` or `isapc`; "" if it is none."""
        found = re.match(r"(?:pc-)?(q35|i440fx)(?:-|$)|(pc|isapc)$", self.machine)
        name = "" if found is None else found[1] or found[2]
        return "pc" if name == "i440fx" else name

    def find(self, name: str) -> Device | None:
        """Return a type that can be added; None if any type can.

        Raises:
            CommandError: There is no such type, or none of its devices can be added.
        """
        if self._facts is None:
            return None
        found = self._facts.device(name)
        if found is None:
            raise CommandError(f"'{name}' is not a valid device model name")
        taken = found.taken_by is not None and found.taken_by in self.machine
        if found.refused is not None and not taken:
            raise CommandError(found.refused)
        return found

    def properties(self, driver: str) -> list[dict[str, Any]]:
        """Return what `device-list-properties` tells of a type; nothing of an unknown one."""
        return self._all_facts.properties("device-list-properties", driver) or []

    def owner(self, driver: str, name: str) -> str | None:
        """Return the type that a property is declared by: the device's, or that of its back end.

        Returns:
            None if neither declares it.
        """
        back_end = f"{driver.removesuffix('-pci')}-device"
        for type_ in (back_end, driver):
            if any(one["name"] == name for one in self.properties(type_)):
                return type_
        return None

    def types(self, driver: Device) -> Mapping[str, str]:
        """Return the types of a device's properties, by name."""
        found = {one["name"]: one["type"] for one in self.properties(driver.name)}
        if driver.bus == "PCI":
            found["addr"] = properties.ADDRESS
        return found

    def place(self, driver: Device, given: Mapping[str, Any], *, hot: bool) -> Node | None:
        """Return the bus for a device; None for one that needs no bus.

        Args:
            driver: The type.
            given: The members of `device_add`.
            hot: Whether the machine exists.

        Raises:
            CommandError: There is no such bus, or it does not take the device.
        """
        assert self._facts is not None
        if hot and driver.hot is not None and driver.hot.startswith("Parameter 'driver' "):
            raise CommandError(driver.hot)
        path = given.get("bus")
        if path is not None:
            name = path.rstrip("/").rpartition("/")[2] or ("main-system-bus" if path else "")
            bus = next((one for one in self.buses if one.name == name), None)
            if bus is None:
                raise CommandError(f"Bus '{path}' not found")
            if driver.bus not in self._facts.line(bus.type):
                raise CommandError(f"Device '{driver.name}' can't go on {bus.type} bus")
        elif driver.bus is None:
            if hot and driver.cold_only:
                raise CommandError(driver.hot or "")
            return None
        else:
            bus = self._first_bus(driver)
            if bus is None:
                raise CommandError(f"No '{driver.bus}' bus found for device '{driver.name}'")
        if bus.type == "PCI" and (driver.cold or "").endswith(_EXPRESS_ONLY):
            raise CommandError(driver.cold or "")
        if hot and not bus.hot:
            raise CommandError(f"Bus '{bus.name}' does not support hotplugging")
        if hot and driver.cold_only:
            raise CommandError(driver.hot or "")
        return bus

    def usual(self, name: str, given: Mapping[str, Any]) -> tuple[Device | None, Node | None]:
        """Return what is known of a type, and the bus for a device, where any type can be added.

        Args:
            name: The type.
            given: The members of `device_add`.
        """
        driver = self._all_facts.device(name)
        if driver is None or driver.bus is None:
            return driver, None
        if "bus" not in given:
            return driver, self._first_bus(driver)
        named = next((one for one in self.buses if one.name == given["bus"]), None)
        takes = named is not None and driver.bus in self._all_facts.line(named.type)
        return driver, named if takes else None

    def has_bus(self, driver: Device) -> bool:
        """Return whether the machine has a bus for a device, or the device needs none."""
        return driver.bus is None or self._first_bus(driver) is not None

    def _first_bus(self, driver: Device) -> Node | None:
        """Return the bus that a device takes if none is named."""
        line = self._all_facts.line
        return next((one for one in self.buses if driver.bus in line(one.type)), None)

    def check_unplug(self, driver: Device, device: str) -> None:
        """Check that a device can leave while the machine exists.

        Args:
            driver: Its type.
            device: Its key.

        Raises:
            CommandError: Its bus or its type does not support that.
        """
        bus = self.buses.of(device)
        if bus is not None and not bus.hot:
            raise CommandError(f"Bus '{bus.name}' does not support hotplugging")
        if driver.cold_only:
            raise CommandError(f"Device '{driver.name}' does not support hotplugging")

    def typed(self, driver: Device, given: Mapping[str, Any], *, text: bool) -> dict[str, Any]:
        """Return the members of `device_add` with values of the properties' types.

        Args:
            driver: The type.
            given: The members, of JSON or of an option.
            text: Whether values are an option's, which are strings.

        Raises:
            CommandError: The type lacks a property, or a property does not take its value.
        """
        types = self.types(driver)
        named = {name: value for name, value in given.items() if name not in _MEMBERS}
        properties.check_names(driver.name, types, named)
        made = {name: value for name, value in given.items() if name in _MEMBERS}
        for name, value in named.items():
            type_ = types.get(name, "bool")
            typed = properties.from_text if text else properties.from_json
            made[name] = typed(name, type_, value)
            properties.check_value(driver.owner(name), name, type_, made[name])
        return made

    def check_alone(self, driver: Device, given: Mapping[str, Any], *, hot: bool) -> None:
        """Check a device that is given no property, or lacks the one that QEMU's refusal names.

        Raises:
            CommandError: QEMU refuses it.
        """
        refused = driver.hot if hot else driver.cold
        if refused is None or driver.bus is None or refused.endswith(_EXPRESS_ONLY):
            return  # the bus has been checked
        words = re.findall(r"[\w-]+", refused)
        named = {one["name"] for one in self.properties(driver.name)}.intersection(words)
        if not set(given) - set(_MEMBERS) or (len(named) == 1 and not named & set(given)):
            raise CommandError(refused)
