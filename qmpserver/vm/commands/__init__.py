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
    from collections.abc import Mapping

    from qmpserver.keyval import Kind
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


def register_all(
    registry: Registry,
    controlled: Machine,
    *,
    command_line: Mapping[str, Mapping[str, Kind]] | None = None,
) -> None:
    """Bind every command of the schema to the machine.

    Args:
        registry: The commands.
        controlled: The machine.
        command_line: The result of `query-command-line-options`: by group, each parameter's type.

    Raises:
        RegistryError: Schema and handlers do not match.
    """
    for module in MODULES:
        module.register(registry, controlled)
    misc.register_command_line(registry, command_line or {})
    registry.check()
