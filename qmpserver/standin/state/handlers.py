"""The handlers of all commands whose effects the stand-in simulates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.monitor import fd_commands
from qmpserver.standin.state import (
    absent,
    agent,
    cpus,
    dirty,
    displays,
    dump,
    facts,
    migration,
    numa,
    qom,
    runstate,
    screens,
)
from qmpserver.standin.state.backends import chardevs, netdevs, objects, queries
from qmpserver.standin.state.block import (
    bitmaps,
    exports,
    info,
    jobs,
    media,
    nodes,
    snapshots,
    throttle,
)
from qmpserver.standin.state.devices import memory, nics, pci, plugging

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.standin.state import State

MODULES = (
    agent, cpus, dirty, displays, dump, facts, migration, numa, qom, runstate, screens,
    chardevs, netdevs, objects, queries,
    bitmaps, exports, info, jobs, media, nodes, snapshots, throttle,
    memory, nics, pci, plugging,
    absent,
)  # fmt: skip


def register_all(registry: Registry, state: State) -> None:
    """Bind the handlers of all commands that have simulated state."""
    for name, handler in fd_commands.HANDLERS.items():
        registry.command(name, client=True)(handler)
    for module in MODULES:
        module.register(registry, state)
