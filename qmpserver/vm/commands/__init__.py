"""The handlers: one thin module per schema file.

Each has ``register(registry, machine)``. A handler calls one method of the machine and says
the result in the schema's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.vm.commands import (
    accelerator,
    char,
    control,
    machine,
    migration,
    misc,
    qmpserver,
    qom,
    run_state,
    stats,
    trace,
    yank,
)

if TYPE_CHECKING:
    from qmpserver.monitor import Registry
    from qmpserver.vm.machine.machine import Machine

MODULES = (
    accelerator,
    char,
    control,
    machine,
    migration,
    misc,
    qmpserver,
    qom,
    run_state,
    stats,
    trace,
    yank,
)


def register_all(registry: Registry, controlled: Machine) -> None:
    """Bind every command of the schema to the machine.

    Raises:
        RegistryError: Schema and handlers do not match.
    """
    for module in MODULES:
        module.register(registry, controlled)
    registry.check()
