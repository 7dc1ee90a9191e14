"""The vCPUs, and the places for more of them: sockets, dies, cores and threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.standin.parts import MachineState

PLACE = ("socket-id", "die-id", "core-id", "thread-id")
"""The properties that name the place of a vCPU."""


class Places(NamedTuple):
    """The numbers of sockets, dies in each, cores in each, and threads in each."""

    sockets: int
    dies: int
    cores: int
    threads: int

    @property
    def number(self) -> int:
        """The number of places."""
        return self.sockets * self.dies * self.cores * self.threads

    def at(self, index: int) -> dict[str, int]:
        """Return the place of a vCPU by its index; one die in a socket is not mentioned."""
        rest, thread = divmod(index, self.threads)
        rest, core = divmod(rest, self.cores)
        socket, die = divmod(rest, self.dies)
        place = dict(zip(PLACE, (socket, die, core, thread), strict=True))
        if self.dies == 1:
            del place["die-id"]
        return place

    def apic_id(self, index: int) -> int:
        """Return a vCPU's number in hardware: its place, with whole bits for each level."""
        found, shift = 0, 0
        for number in (self.threads, self.cores, self.dies):
            index, one = divmod(index, number)
            found |= one << shift
            shift += (number - 1).bit_length()
        return found | index << shift


def places(machine: MachineState) -> Places:
    """Return the places of a machine; of numbers that are left out, QEMU prefers cores."""
    given = machine.topology
    dies, threads = given.dies or 1, given.threads or 1
    if not (given.sockets or given.cores):
        most = max(machine.cpus, given.maxcpus)
        return Places(1, dies, -(-most // (dies * threads)), threads)
    sockets, cores = given.sockets or 1, given.cores or 1
    most = max(given.maxcpus, machine.cpus, sockets * dies * cores * threads)
    if not given.cores:
        cores = -(-most // (sockets * dies * threads))
    elif not given.sockets:
        sockets = -(-most // (dies * cores * threads))
    return Places(sockets, dies, cores, threads)


def unattached(index: int) -> str:
    """Return the name of a vCPU of the start in `/machine/unattached`."""
    return f"device[{index if index == 0 else index + 1}]"


class Cpus:
    """The vCPUs by index: a path in QOM for each place that is taken.

    Attributes:
        places: The places.
        type: The QOM type of all of them.
        paths: The paths.
        nodes: The NUMA node of each place; empty without such nodes.
        described: Whether the nodes of some places are given.
    """

    def __init__(self, machine: MachineState) -> None:
        self.places = places(machine)
        self.type = f"{machine.cpu}-x86_64-cpu"
        self.nodes: dict[int, int] = {}
        self.described = False
        self.paths = {
            index: f"/machine/unattached/{unattached(index)}"
            for index in range(0 if machine.empty else machine.cpus)
        }

    def properties(self, index: int) -> dict[str, int]:
        """Return the place of a vCPU, and its NUMA node, by its index."""
        node = self.nodes.get(index)
        return self.places.at(index) | ({} if node is None else {"node-id": node})

    def plug(self, path: str, driver: str, properties: Mapping[str, Any]) -> int:
        """Plug in a vCPU as a device with a path, and return its index.

        Raises:
            CommandError: There is no such place, or it is taken.
        """
        if driver != self.type:
            raise CommandError(f"Invalid CPU type, expected cpu type: '{self.type}'")
        place = self.places.at(0)
        for key, most in zip(PLACE, self.places, strict=True):
            if key not in place:
                continue
            if key not in properties:
                raise CommandError(f"CPU {key} is not set")
            if properties[key] not in range(most):
                bounds = f"0:{most - 1}"
                raise CommandError(
                    f"Invalid CPU {key}: {properties[key]} must be in range {bounds}"
                )
            place[key] = properties[key]
        indexes = range(self.places.number)
        index = next(index for index in indexes if self.places.at(index) == place)
        if index in self.paths:
            raise CommandError(f"CPU[{index}] with APIC ID {index} exists")
        node = self.nodes.get(index)
        if node is not None and properties.get("node-id", node) != node:
            raise CommandError(f"invalid node-id, must be {node}")
        self.paths[index] = path
        return index

    def unplug(self, path: str) -> int | None:
        """Remove the vCPU with a path; return its index, None if it is no vCPU's."""
        for index, one in self.paths.items():
            if one == path:
                del self.paths[index]
                return index
        return None
