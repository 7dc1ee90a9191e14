"""The handlers of all commands whose effects the stand-in simulates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.monitor import fd_commands
from qmpserver.standin.state import (
    absent,
    agent,
    backends,
    bitmaps,
    block,
    blockinfo,
    chardevs,
    cpus,
    devices,
    dirty,
    dump,
    exports,
    facts,
    jobs,
    media,
    memorydevices,
    migration,
    netdevs,
    nics,
    objects,
    pci,
    qom,
    runstate,
    snapshots,
    throttle,
)

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

MODULES = (
    agent, backends, bitmaps, block, blockinfo, chardevs, cpus, devices, dirty, dump, exports,
    facts, jobs, media, memorydevices, migration, netdevs, nics, objects, pci, qom, runstate,
    snapshots, throttle, absent,
)  # fmt: skip


def register_all(registry: Registry, state: State) -> None:
    """Bind the handlers of all commands that have simulated state."""
    for name, handler in fd_commands.HANDLERS.items():
        registry.command(name, client=True)(handler)
    for module in MODULES:
        module.register(registry, state)
