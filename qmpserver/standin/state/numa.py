"""NUMA nodes: their memory and their vCPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_MAX_NODES = 128
_LOCAL = 10  # the distance of a node to itself
_MOST = 255
_EARLY = "The command is permitted only before the machine has been created"


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    kinds: dict[str, Callable[..., None]] = {"node": _add_node, "cpu": _add_cpu, "dist": _distance}

    @registry.command("set-numa-node")
    def set_numa_node(type: str, **given: Any) -> None:  # noqa: A002 -- the schema's name
        if not (state.in_setup or state.preconfig):
            raise CommandError(_EARLY)
        if state.machine.empty:
            raise CommandError("NUMA is not supported by this machine-type")
        if type in kinds:
            kinds[type](state, **given)


def finish(state: State) -> None:
    """Check all nodes, once they are described, and give each vCPU one.

    Raises:
        CommandError: A node is missing, or the nodes have too little or too much memory.
    """
    if not state.numa and state.machine.slots and state.drivers.family:
        state.numa["0"] = {"size": state.machine.memory}
    elif state.numa:
        _check_memory(state)
    nodes, cpus = len(state.numa), state.cpus
    for index in range(cpus.places.number if nodes else 0):
        if not cpus.described:
            cpus.nodes[index] = cpus.places.at(index)["socket-id"] % nodes
        else:
            cpus.nodes.setdefault(index, 0)


def _check_memory(state: State) -> None:
    for number in range(max(map(int, state.numa))):
        if str(number) not in state.numa:
            raise CommandError(f"numa: Node ID missing: {number}")
    memdevs = [one["memdev"] for one in state.numa.values() if "memdev" in one]
    for name in memdevs:
        if memdevs.count(name) > 1:
            raise CommandError(f"memory backend {name} can't be used multiple times.")
    total = sum(one["size"] for one in state.numa.values())
    if total != state.machine.memory:
        raise CommandError(
            f"total memory for NUMA nodes ({total:#x}) should equal RAM size"
            f" ({state.machine.memory:#x})"
        )


def _add_node(
    state: State,
    nodeid: int | None = None,
    cpus: list[int] | None = None,
    mem: int | None = None,
    memdev: str | None = None,
    **_: Any,
) -> None:
    number = len(state.numa) if nodeid is None else nodeid
    if not 0 <= number < _MAX_NODES:
        raise CommandError(f"Max number of NUMA nodes reached: {number}")
    if str(number) in state.numa:
        raise CommandError(f"Duplicate NUMA nodeid: {number}")
    places = state.cpus.places.number
    for index in cpus or ():
        if index >= places:
            raise CommandError(f"CPU index ({index}) should be smaller than maxcpus ({places})")
        _assign(state, index, number)
    if mem is not None and memdev is not None:
        words = "use either mem= or memdev=,mixing both is not allowed"
        raise CommandError(f"numa configuration should {words}")
    if mem is not None and not _takes_mem(state):
        raise CommandError(
            "Parameter -numa node,mem is not supported by this machine type\n"
            "Use -numa node,memdev instead"
        )
    node: dict[str, Any] = {"size": mem or 0}
    if memdev is not None:
        backend = state.objects.get(memdev, {})
        if not backend.get("qom-type", "").startswith("memory-backend-"):
            raise CommandError(f"memdev={memdev} is ambiguous")
        node = {"size": backend.get("size", 0), "memdev": memdev}
    state.numa[str(number)] = node


def _takes_mem(state: State) -> bool:
    """Return whether the machine takes the size of a node's memory without a backend."""
    if not state.has_facts:
        return True
    machines = state.facts.answers["query-machines"]
    return any(
        one["numa-mem-supported"] for one in machines if one["name"] == state.drivers.machine
    )


def _add_cpu(state: State, node_id: int | None = None, **place: int) -> None:
    if node_id is None or str(node_id) not in state.numa:
        raise CommandError(
            f"Invalid node-id={node_id or 0}, NUMA node must be defined with -numa node,nodeid=ID"
            " before it's used with -numa cpu,node-id=ID"
        )
    given = {name.replace("_", "-"): value for name, value in place.items()}
    known = state.cpus.places.at(0)
    for name in given:
        if name not in known:
            raise CommandError(f"{name} is not supported")
    found = [
        index
        for index in range(state.cpus.places.number)
        if given.items() <= state.cpus.places.at(index).items()
    ]
    if not found:
        raise CommandError("no match found")
    for index in found:
        _assign(state, index, node_id)


def _assign(state: State, index: int, node: int) -> None:
    before = state.cpus.nodes.setdefault(index, node)
    state.cpus.described = True
    if before != node:
        raise CommandError(f"CPU is already assigned to node-id: {before}")


def _distance(state: State, src: int, dst: int, val: int) -> None:
    """Check a distance between two nodes; it is shown nowhere."""
    for name, number in (("src", src), ("dst", dst)):
        if not 0 <= number < _MAX_NODES:
            raise CommandError(f"Parameter '{name}' expects an integer between 0 and 127")
    if str(src) not in state.numa or str(dst) not in state.numa:
        raise CommandError(
            "Source/Destination NUMA node is missing. Please use '-numa node' option to declare it"
            " first."
        )
    if val > _MOST:
        raise CommandError("Parameter 'val' expects uint8_t")
    if val < _LOCAL:
        raise CommandError(f"NUMA distance ({val}) is invalid, it shouldn't be less than {_LOCAL}.")
    if src == dst and val != _LOCAL:
        raise CommandError(f"Local distance of node {src} should be {_LOCAL}.")
