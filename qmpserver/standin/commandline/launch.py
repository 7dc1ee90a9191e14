"""The way from an option's value to a command: its arguments are typed by the schema."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.keyval import OptionError, split_options
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline.typed import typed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.standin.commands import Commands
    from qmpserver.standin.state import State


class Launch(NamedTuple):
    """The commands and the state that options act on."""

    commands: Commands
    state: State

    def execute(self, command: str, arguments: dict[str, Any], *, flat: bool = False) -> None:
        """Execute a command; none of a schema that lacks it.

        Args:
            command: The command.
            arguments: Its arguments, whose scalars may be strings.
            flat: Whether the option has no structure, of which QEMU has its own words.

        Raises:
            OptionError: A string stands for no value of its type; or the schema or the state
                refuses the command.
        """
        declared = self.commands.schema.commands.get(command)
        if declared is not None:
            if declared.gen:
                arguments = typed(arguments, declared.arguments)
            try:
                self.commands.prepare(command, arguments)
            except CommandError as error:
                raise OptionError(_flat(error.desc) if flat else error.desc) from None

    def add_implied_device(self, device: dict[str, Any]) -> None:
        """Add a device that comes with an option; no device where the machine has no bus for it.

        Raises:
            OptionError: The state refuses it.
        """
        kind = self.state.drivers.find(device["driver"])
        if kind is None or self.state.drivers.has_bus(kind):
            self.execute("device_add", device)

    def has_chardev(self, name: str) -> bool:
        """Return whether there is a character device, a monitor's or another one."""
        state = self.state
        return name in state.chardevs or any(one.id == name for one in state.host.devices)

    def check_names(self, option: str, given: Iterable[str]) -> None:
        """Check the keys of an option by those that `query-command-line-options` lists.

        Raises:
            OptionError: The option has no such key.
        """
        known = self.state.option_names(option)
        for name in given:
            if known and name not in known and name != "id":
                raise OptionError(f"Invalid parameter '{name}'")


def _flat(desc: str) -> str:
    """Return a refusal of a command in QEMU's words for an option without structure."""
    unknown = re.fullmatch(r"Parameter '(?:backend\.data\.)?([^.']+)' is unexpected", desc)
    if unknown is not None:
        return f"Invalid parameter '{unknown[1]}'"
    return desc


def flat_members(text: str, implied: str | None) -> dict[str, str | list[str]]:
    """Return the members of a value without structure; of a key given repeatedly, all values."""
    made: dict[str, str | list[str]] = {}
    for name, value, _ in split_options(text, implied):
        before = made.get(name)
        if before is None:
            made[name] = value
        else:
            made[name] = [*(before if isinstance(before, list) else [before]), value]
    return made


def last_members(text: str, implied: str | None) -> dict[str, Any]:
    """Return the members of a value without structure; the last value of a key counts."""
    return {name: value for name, value, _ in split_options(text, implied)}
