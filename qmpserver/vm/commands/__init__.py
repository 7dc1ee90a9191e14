"""The handlers of QMP commands: one thin module for each schema file.

Each module has `register(registry, machine)`. A handler calls one method of the machine and returns
the result in the schema's terms.

To add a command:

1. Declare and document it in `schema/NAME.json` (a new file also needs an `include` in
   `schema/qapi-schema.json`, a module here, and an entry in `MODULES`).
2. Write its handler in the module of the same name, under `@registry.command("the-command")`.
3. Regenerate `types.py`, which types the arguments and results of all handlers and is never
   edited, the compiled schema, and the reference:

       python -m qmpserver.qapi types schema/qapi-schema.json -o qmpserver/vm/commands/types.py
       python -m qmpserver.qapi compile schema/qapi-schema.json -o qmpserver/releases/own.json
       python -m qmpserver.qapi doc schema/qapi-schema.json -o schema/COMMANDS.md

4. `tests/qapi/test_own_schema.py` checks these files, `tests/vm/test_commands.py` each handler's
   signature.

The human monitor's commands are in `human/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.monitor.adapted import AdaptedRegistry
from qmpserver.releases import NEWEST
from qmpserver.vm.commands import (
    accelerator,
    block_core,
    char,
    control,
    job,
    machine,
    migration,
    misc,
    qdev,
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
    from qmpserver.releases import Release
    from qmpserver.vm.machine.machine import Machine

MODULES = (
    accelerator,
    block_core,
    char,
    control,
    job,
    machine,
    migration,
    misc,
    qdev,
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
    release: Release = NEWEST,
    command_line: Mapping[str, Mapping[str, Kind]] | None = None,
) -> None:
    """Bind every command of the schema to the machine.

    Args:
        registry: The commands; an `AdaptedRegistry` for a release other than the newest.
        controlled: The machine.
        release: The release to speak as.
        command_line: The result of `query-command-line-options`: by group, each parameter's type.
    """
    for module in MODULES:
        module.register(registry, controlled)
    control.register_version(registry, release)
    misc.register_human(registry, release)
    misc.register_command_line(registry, command_line or {})
    if isinstance(registry, AdaptedRegistry):
        registry.adapt()
