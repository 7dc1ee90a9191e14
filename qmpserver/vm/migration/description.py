"""The description of a machine that both sides of a migration must share."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

from qmpserver.migration.wire import VERSION, StreamError
from qmpserver.vm.machine.options import NO_UUID

if TYPE_CHECKING:
    from qmpserver.vm.migration.movable import Movable

_NAMES = {
    "version": "version of the stream",
    "accel": "accelerator",
    "ram": "bytes of RAM",
    "page": "bytes of a page",
    "vcpus": "number of vCPUs",
}


def describe(machine: Movable, *, identify: bool) -> dict[str, Any]:
    """Return the members of a hello that describe the machine; to `identify` it, its UUID."""
    identified = identify and machine.uuid != NO_UUID
    return _shared(machine) | ({"uuid": machine.uuid} if identified else {})


def _shared(machine: Movable) -> dict[str, Any]:
    return {
        "version": VERSION,
        "accel": machine.accel.name,
        "ram": machine.ram.size,
        "page": mmap.PAGESIZE,
        "vcpus": machine.accel.engine.vcpus,
    }


def check(hello: dict[str, Any], machine: Movable) -> None:
    """Compare the source's hello with this machine, and the UUID if both have one.

    Raises:
        StreamError: They differ; the text names each difference.
    """
    own = _shared(machine)
    differences = [
        f"{_NAMES[key]}: {hello.get(key)!r} at the source, {own[key]!r} here"
        for key in own
        if hello.get(key) != own[key]
    ]
    if differences:
        raise StreamError("the machines differ: " + "; ".join(differences))
    received = hello.get("uuid", machine.uuid)
    if machine.uuid != NO_UUID and received != machine.uuid:
        raise StreamError(f"UUID received is {received} and local is {machine.uuid}")
