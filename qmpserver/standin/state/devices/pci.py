"""PCI buses: the addresses of functions on them, and `query-pci`.

What a function shows is QEMU's own answer, recorded before firmware has run: its regions have no
addresses. Once the guest has run, the buses behind bridges have numbers, as firmware gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qmp import CommandError
from qmpserver.standin.state.devices import properties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State
    from qmpserver.standin.state.devices.buses import Node

_SLOTS = 32
_FUNCTIONS = 8  # of a slot
_LAST_NUMBER = 255  # of a bus
_MAX_DEPTH = 64  # of bridges behind bridges that firmware numbers: JSON shows no more
# What is shown of a function that was not recorded, as QEMU makes it only with the host's help.
_UNKNOWN: Mapping[str, Any] = {
    "irq_pin": 0,
    "class_info": {"class": 0x00FF},
    "id": {"vendor": 0x1AF4, "device": 0x1000, "subsystem-vendor": 0x1AF4, "subsystem": 0x1100},
    "regions": [],
}


class _Function(NamedTuple):
    """A function on a bus.

    Attributes:
        driver: Its type.
        id: The id of its device; None without one.
        multifunction: Whether its slot may have more functions.
        shown: What `query-pci` shows of it, besides its place.
        behind: The PCI bus that it makes; None if it is no bridge.
    """

    driver: str
    id: str | None
    multifunction: bool
    shown: Mapping[str, Any]
    behind: Node | None


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""

    @registry.command("query-pci")
    def query_pci() -> Any:
        buses = [bus for bus in state.drivers.buses if is_pci(state, bus) and _is_root(state, bus)]
        found = []
        for bus in reversed(buses):
            number = 0 if bus.owner is None else int(state.devices[bus.owner].get("bus_nr", 0))
            devices, _ = _shown(state, bus, number, number, 0)
            found.append({"bus": number, "devices": devices})
        return found


def is_pci(state: State, bus: Node) -> bool:
    """Return whether a bus is one of PCI or PCIe."""
    return "PCI" in state.facts.line(bus.type)


def _is_root(state: State, bus: Node) -> bool:
    """Return whether a PCI bus is behind no bridge: the machine's, or one of an expander."""
    return bus.owner is None or str(state.devices[bus.owner]["driver"]).startswith("pxb")


def _address(value: object) -> int | None:
    """Return the `addr` of a device, slot * 8 + function; None if QEMU is to choose one.

    Args:
        value: A number, or `SLOT.FUNCTION` in hexadecimal.
    """
    if isinstance(value, str) and value:
        slot, _, function = value.partition(".")
        return int(slot, 16) * _FUNCTIONS + int(function or "0", 16)
    return value if isinstance(value, int) and value >= 0 else None


def place(state: State, bus: Node, driver: str, given: Mapping[str, Any], *, hot: bool) -> int:
    """Return the address of a new device on a bus.

    Args:
        state: The machine.
        bus: A PCI bus.
        driver: The device's type.
        given: Its properties.
        hot: Whether the machine exists.

    Raises:
        CommandError: The address is none, or is not free on a machine whose devices are known.
    """
    properties.check_value(driver, "addr", properties.ADDRESS, given.get("addr", -1))
    taken = _functions(state, bus)
    asked = _address(given.get("addr"))
    if asked is None:
        slots = range(0, _SLOTS * _FUNCTIONS, _FUNCTIONS)
        found = next((at for at in slots if at not in taken), None)
        if found is None:
            what = f"no slot/function available for {driver}, all in use or reserved"
            raise CommandError(f"PCI: {what}")
    elif state.drivers.known:
        found = asked
    else:
        return asked
    slot, function = divmod(found, _FUNCTIONS)
    if found in taken:
        raise CommandError(
            f"PCI: slot {slot} function {function} not available for {driver}, in use by"
            f" {taken[found].driver},id={taken[found].id or '(null)'}"
        )
    if hot and not (asked is None and state.release.hides_functions):
        _check_visible(state, bus, driver, asked, taken)
    if function:
        first = taken.get(slot * _FUNCTIONS)
        if first is not None and not first.multifunction:
            what = f"single function device can't be populated in function {slot:x}.{function:x}"
            raise CommandError(f"PCI: {what}")
    elif not given.get("multifunction"):
        for other in range(1, _FUNCTIONS):
            if found + other in taken:
                what = f"{slot:x}.0 indicates single function, but {slot:x}.{other:x}"
                raise CommandError(f"PCI: {what} is already populated.")
    return found


def _check_visible(
    state: State, bus: Node, driver: str, asked: int | None, taken: Mapping[int, _Function]
) -> None:
    """Check that a guest that runs will see a device: it looks at a slot once function 0 comes.

    Raises:
        CommandError: Function 0 is there already.
    """
    # QEMU compares before it chooses an address: then all bits of the slot are set.
    slot = _SLOTS - 1 if asked is None else asked // _FUNCTIONS
    if bus.owner is not None:
        line = state.facts.line(state.devices[bus.owner]["driver"])
        slot = 0 if "pcie-slot" in line else slot
    first = taken.get(slot * _FUNCTIONS)
    if first is not None:
        raise CommandError(
            f"PCI: slot {slot} function 0 already occupied by {first.driver}, new func {driver}"
            " cannot be exposed to guest."
        )


def _functions(state: State, bus: Node) -> dict[int, _Function]:
    """Return the functions on a bus, by their addresses."""
    found = {}
    if bus.owner is None:
        for own in state.facts.own_functions(state.drivers.machine):
            found[own.addr] = _Function(own.driver, None, own.multifunction, own.shown, None)
    express = "PCIE" in state.facts.line(bus.type) and not _is_root(state, bus)
    for key, made in bus.plugged.items():
        one = state.devices[key]
        found[_address(one.get("addr")) or 0] = _Function(
            one["driver"],
            key if one["named"] else None,
            bool(one.get("multifunction")),
            state.facts.function(one["driver"], express=express) or _UNKNOWN,
            next((bus for bus in made if is_pci(state, bus) and not _is_root(state, bus)), None),
        )
    return found


def _shown(
    state: State, bus: Node, number: int, last: int, depth: int
) -> tuple[list[dict[str, Any]], int]:
    """Return what `query-pci` shows of a bus with those behind it.

    Args:
        state: The machine.
        bus: The bus.
        number: Its number.
        last: The highest number that a bus has until now.
        depth: How many bridges are before it.

    Returns:
        The devices; and the highest number that a bus has then.
    """
    devices = []
    for at, one in sorted(_functions(state, bus).items()):
        slot, function = divmod(at, _FUNCTIONS)
        place = {"bus": number, "slot": slot, "function": function, "qdev_id": one.id or ""}
        devices.append(shown := {**one.shown, **place})
        has_run = state.status not in ("prelaunch", "inmigrate")
        numbered = has_run and last < _LAST_NUMBER and depth < _MAX_DEPTH
        if one.behind is None or "pci_bridge" not in shown or not numbered:
            continue
        secondary = last + 1
        behind, last = _shown(state, one.behind, secondary, secondary, depth + 1)
        ranges = shown["pci_bridge"]["bus"]
        numbers = {"number": number, "secondary": secondary, "subordinate": last}
        shown["pci_bridge"] = {"bus": {**ranges, **numbers}, "devices": behind}
    return devices, last
