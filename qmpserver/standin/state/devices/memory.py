"""Memory devices: their slots, their addresses, and the balloon.

A machine whose options give no size of its memory has room for any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.backends.objects import is_mapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

_DIMMS = {"pc-dimm": "dimm", "nvdimm": "nvdimm"}
_VIRTIO = {"virtio-mem-pci": "virtio-mem", "virtio-pmem-pci": "virtio-pmem"}
_BLOCK = 2 << 20  # bytes that sizes are multiples of
_GIB = 1 << 30
# Below 4 GiB: the most memory, and how much of it a machine with more has, by the machine's family.
_LOW = {"pc-i440fx": (0xE0000000, 0xC0000000), "pc-q35": (0xB0000000, 0x80000000)}


def register(registry: Registry, state: State) -> None:
    """Bind the handlers of this module."""
    balloon: list[int] = []  # the guest's memory, after the first `balloon`

    def require_balloon() -> None:
        if not any(one["driver"].startswith("virtio-balloon") for one in state.devices.values()):
            raise CommandError("No balloon device has been activated", "DeviceNotActive")

    @registry.command("balloon")
    def balloon_to(value: int) -> None:
        require_balloon()
        if value <= 0:
            raise CommandError("Parameter 'value' expects a size")
        balloon[:] = [value]
        state.emit("BALLOON_CHANGE", {"actual": value})

    @registry.command("query-balloon")
    def query_balloon() -> Any:
        require_balloon()
        return {"actual": balloon[0] if balloon else state.machine.memory}

    @registry.command("query-memory-devices")
    def query_memory_devices() -> Any:
        return [_shown(state, name, one) for name, one in _devices(state)]

    @registry.command("query-memory-size-summary")
    def query_memory_size_summary() -> Any:
        plugged = sum(
            _size(state, one) for _, one in _devices(state) if one["driver"] != "virtio-mem-pci"
        )
        base = 0 if state.machine.empty else state.machine.memory
        return {"base-memory": base, "plugged-memory": plugged}


def plugged(state: State, node: int) -> int:
    """Return the bytes of the memory devices of a NUMA node that have all their memory."""
    return sum(
        _size(state, one)
        for _, one in _devices(state)
        if one.get("node", 0) == node and one["driver"] != "virtio-mem-pci"
    )


def place(state: State, driver: str, given: Mapping[str, Any], *, hot: bool) -> dict[str, Any]:
    """Return the members that say where a new memory device is; nothing for another device.

    Args:
        state: The machine's state.
        driver: The device's type.
        given: The members of `device_add`.
        hot: Whether the machine exists.

    Raises:
        CommandError: There is no room, or the device has no memory.
    """
    dimm = driver in _DIMMS
    if not dimm and driver not in _VIRTIO:
        return {}
    slots, most = state.machine.slots, state.machine.max_memory
    if dimm:
        if driver == "nvdimm" and slots is not None and not state.machine.nvdimm:
            raise CommandError("nvdimm is not enabled: missing 'nvdimm' in '-M'")
        if slots == 0:
            raise CommandError("no slots where allocated, please specify the 'slots' option")
    if "memdev" not in given:
        raise CommandError(f"'memdev' property {'must be' if dimm else 'is not'} set")
    check_free(state, given)
    node = given.get("node", 0)
    if slots is not None and node >= max(1, len(state.numa)):
        words = f"exceeds the number of numa nodes: {max(1, len(state.numa))}"
        raise CommandError(f"'DIMM property node has value {node}' which {words}")
    made: dict[str, Any] = {"hotplugged": hot}
    if dimm:
        made["slot"] = _slot(state, given.get("slot", -1))
    if most is not None and slots is not None and most <= state.machine.memory:
        raise CommandError(
            "the configuration is not prepared for memory devices (e.g., for memory hotplug), "
            "consider specifying the maxmem option"
        )
    size = _size(state, given)
    if slots is not None and size % _BLOCK:
        raise CommandError(f"backend memory size must be multiple of {_BLOCK:#x}")
    used = sum(_size(state, one) for _, one in _devices(state))
    room = None if most is None else most - state.machine.memory
    if room is not None and used + size > room:
        raise CommandError(
            f"not enough space, currently {used:#x} in use of total space for memory devices "
            f"{room:#x}"
        )
    return {**made, _key(driver): _address(state, size)}


def check_free(state: State, given: Mapping[str, Any]) -> None:
    """Check that no device uses the memory of a new one.

    Raises:
        CommandError: One does.
    """
    if is_mapped(state, given.get("memdev", "")):
        raise CommandError(f"can't use already busy memdev: {given['memdev']}")


def _slot(state: State, asked: int) -> int:
    slots = state.machine.slots
    taken = {one["slot"] for _, one in _devices(state) if "slot" in one}
    if asked >= 0:
        if slots is not None and asked >= slots:
            raise CommandError(f"invalid slot number {asked}, valid range is [0-{slots - 1}]")
        if asked in taken:
            raise CommandError(f"slot {asked} is busy")
        return asked
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    if slots is not None and free >= slots:
        raise CommandError("no free slots available")
    return free


def _address(state: State, size: int) -> int:
    """Return the lowest free address for so many bytes."""
    address = _base(state)
    for _, one in _devices(state):
        start = one[_key(one["driver"])]
        if address + size <= start:
            break
        address = max(address, start + _size(state, one))
    return address


def _base(state: State) -> int:
    """Return where the memory devices begin: after the RAM, in whole GiB."""
    family = state.drivers.machine.rpartition("-")[0]
    most, low = _LOW.get(family, _LOW["pc-i440fx"])
    above = max(0, state.machine.memory - low) if state.machine.memory >= most else 0
    return -(-(4 * _GIB + above) // _GIB) * _GIB


def _key(driver: str) -> str:
    """Return the property that is a memory device's address."""
    return "addr" if driver in _DIMMS else "memaddr"


def _devices(state: State) -> list[tuple[str, dict[str, Any]]]:
    """Return the memory devices by their ids, in the order of their addresses."""
    found = [pair for pair in state.devices.items() if pair[1]["driver"] in _DIMMS | _VIRTIO]
    return sorted(found, key=lambda pair: pair[1][_key(pair[1]["driver"])])


def _size(state: State, device: Mapping[str, Any]) -> int:
    size: int = state.objects.get(str(device.get("memdev")), {}).get("size", 0)
    return size


def _shown(state: State, name: str, one: dict[str, Any]) -> dict[str, Any]:
    size = _size(state, one)
    data: dict[str, Any] = {"id": name} if one["named"] else {}
    data["memdev"] = f"/objects/{one['memdev']}"
    if one["driver"] in _DIMMS:
        data |= {
            "size": size, "addr": one["addr"], "slot": one["slot"], "node": one.get("node", 0),
            "hotplugged": one["hotplugged"], "hotpluggable": True,
        }  # fmt: skip
        return {"type": _DIMMS[one["driver"]], "data": data}
    data["memaddr"] = one["memaddr"]
    if one["driver"] == "virtio-mem-pci":
        asked = one.get("requested-size", 0)
        data |= {
            "requested-size": asked, "size": 0, "max-size": size, "block-size": _BLOCK,
            "node": one.get("node", 0),
        }  # fmt: skip
    else:
        data["size"] = size
    return {"type": _VIRTIO[one["driver"]], "data": data}
