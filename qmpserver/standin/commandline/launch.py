"""The way from an option's value to a command: its arguments are typed by the schema."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.keyval import IDENTIFIER, OptionError, parse_number, split_options
from qmpserver.qapi.model import ArrayType, ObjectType
from qmpserver.qmp import CommandError
from qmpserver.standin.commandline.typed import typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpserver.qapi.model import Type
    from qmpserver.standin.commands import Commands
    from qmpserver.standin.state import State

_LONGEST_RANGE = 65536


class MachineError(OptionError):
    """An error of the machine, which QEMU reports without the option."""


@contextlib.contextmanager
def by_machine() -> Iterator[None]:
    """Report what the state refuses in the block as an error of the machine.

    Raises:
        MachineError: The state refuses something.
    """
    try:
        yield
    except CommandError as error:
        raise MachineError(error.desc) from None


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

    def flat(self, command: str, text: str, implied: str) -> dict[str, Any]:
        """Return the arguments of a command that a value without structure gives.

        Each further value of a key adds elements to an array, and replaces any other value.

        Args:
            command: The command.
            text: The value.
            implied: The key of the value's first part, the type of what the command makes.

        Raises:
            OptionError: The id is none, or an element is.
        """
        given = all_members(text, implied)
        declared = self.commands.schema.commands.get(command)
        kind = given.get(implied, [None])[-1]
        listed = {} if declared is None else _listed(declared.arguments, kind)
        return {
            name: _elements(name, values, listed[name]) if name in listed else values[-1]
            for name, values in given.items()
        }

    def add_onboard(self, kind: str, device: dict[str, Any]) -> None:
        """Add a device that is part of the machine; none where the machine has no bus for it.

        Args:
            kind: `isa`, `usb`, `vga` or `nic`.
            device: The arguments of `device_add`.

        Raises:
            OptionError: The state refuses it.
        """
        driver = self.state.drivers.find(device["driver"])
        if driver is None or self.state.drivers.has_bus(driver):
            try:
                self.state.add_device(device, self.state.onboard.path(kind))
            except CommandError as error:
                raise OptionError(error.desc) from None

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
    unknown = re.fullmatch(r"Parameter '(?:backend\.data\.)?([^']+)' is unexpected", desc)
    if unknown is not None:
        return f"Invalid parameter '{unknown[1]}'"
    return desc


def last_members(text: str, implied: str | None) -> dict[str, Any]:
    """Return the members of a value without structure; the last value of a key counts.

    Raises:
        OptionError: The id is none.
    """
    return {name: values[-1] for name, values in all_members(text, implied).items()}


def all_members(text: str, implied: str | None) -> dict[str, list[str]]:
    """Return the members of a value without structure, each with all values that it is given.

    Raises:
        OptionError: The id is none.
    """
    made: dict[str, list[str]] = {}
    for name, value, _ in split_options(text, implied):
        if name == "id" and not re.fullmatch(IDENTIFIER, value):
            raise OptionError(
                "Parameter 'id' expects an identifier",
                "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
            )
        made.setdefault(name, []).append(value)
    return made


def _listed(arguments: ObjectType, kind: str | None) -> dict[str, Type]:
    """Return the types of the elements of members that are arrays, by member."""
    branch = arguments.branches.get(str(kind))
    members = (
        branch.type.members if branch is not None and isinstance(branch.type, ObjectType) else ()
    )
    return {one.name: one.type.element for one in members if isinstance(one.type, ArrayType)}


def _elements(name: str, values: list[str], element: Type) -> list[Any]:
    """Return an array whose elements are given by one option each; numbers also by ranges."""
    if isinstance(element, ObjectType):
        return [{"str": one} for one in values]
    if element.wire != "int":
        return values
    made: list[Any] = []
    for one in values:
        first, dash, last = one.partition("-")
        try:
            low = parse_number(name, first)
            high = parse_number(name, last) if dash else low
        except OptionError:
            low, high = 1, 0
        if not low <= high < low + _LONGEST_RANGE:
            raise OptionError(f"Parameter '{name}' expects a uint64 value or range")
        made += range(low, high + 1)
    return made
