"""The buses of a machine: those of its type, and those that its devices make."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.releases.facts import Bus
    from qmpserver.standin.state.budget import Budget

_BYTES = 512  # of a bus with its name


class Node:
    """A bus, with the buses of the devices on it.

    Attributes:
        owner: Key of the device that makes it; None for a bus of the machine.
    """

    __slots__ = ("fixed", "hot", "name", "owner", "plugged", "type")

    def __init__(self, bus: Bus, name: str, owner: str | None) -> None:
        self.name = name
        self.type = bus.type
        self.hot = bus.hot
        self.owner = owner
        self.fixed: list[Node] = []
        self.plugged: dict[str, list[Node]] = {}

    def walk(self) -> Iterator[Node]:
        """Yield this bus and all below it in QEMU's order: the newest device's come first."""
        left = [self]
        while left:
            bus = left.pop()
            yield bus
            left += reversed(bus.fixed)
            for made in bus.plugged.values():
                left += reversed(made)


class Buses:
    """The tree of a machine's buses and the devices on them.

    Args:
        fixed: The buses of the machine.
        budget: What the buses of devices take their memory from.
    """

    def __init__(self, fixed: Sequence[Bus], budget: Budget) -> None:
        self._budget = budget
        self._numbers: Counter[str] = Counter()  # of buses with names of their own, by type
        self._places: dict[str, Node] = {}  # of devices
        self._outer = self._made(fixed, None, None)

    def __iter__(self) -> Iterator[Node]:
        """Yield all buses in QEMU's order of search."""
        for one in self._outer:
            yield from one.walk()

    def of(self, device: str) -> Node | None:
        """Return the bus that a device is on, by the device's key; None if it is on none."""
        return self._places.get(device)

    def plug(self, device: str, bus: Node, buses: Sequence[Bus], name: str | None) -> None:
        """Put a device on a bus, with the buses that it makes.

        Args:
            device: The device's key.
            bus: Where it is.
            buses: Its buses.
            name: The device's id; without one, its buses are numbered.

        Raises:
            CommandError: The budget is used up.
        """
        self._budget.charge(_BYTES * len(buses))
        self._places[device] = bus
        bus.plugged[device] = self._made(buses, name, device)

    def unplug(self, device: str) -> list[str]:
        """Remove a device; return the keys of the devices that were on its buses."""
        bus = self._places.pop(device, None)
        made = [] if bus is None else bus.plugged.pop(device)
        below = [node for one in made for node in one.walk()]
        self._budget.take(-_BYTES * len(below))
        gone = [key for node in below for key in node.plugged]
        for key in gone:
            del self._places[key]
        return gone

    def _made(self, buses: Sequence[Bus], name: str | None, owner: str | None) -> list[Node]:
        """Return the outermost of some buses, with the others in them."""
        made: dict[str, Node] = {}
        outer = []
        for bus in buses:
            node = made[bus.name] = Node(bus, self._name(bus, name), owner)
            if bus.parent in made:
                made[bus.parent].fixed.append(node)
            else:
                outer.append(node)
        return outer

    def _name(self, bus: Bus, name: str | None) -> str:
        family = bus.type.lower()
        if "{id}" in bus.name and name is None:
            name, text = "", f"{family}.{self._numbers[family]}"
        else:
            text = bus.name.replace("{id}", name or "")
        self._numbers[family] += text.startswith(f"{family}.")
        return text
