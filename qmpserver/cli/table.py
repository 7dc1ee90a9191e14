"""The table of options, and the decorator that adds a row to it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.cli.settings import Settings
    from qmpserver.keyval import Kind

    Apply = Callable[[Settings, str], None]


class WithFake(enum.Enum):
    """The effect of an option beside `-fake`, which has no machine."""

    USED = enum.auto()
    IGNORED = enum.auto()  # about the machine: `standin.commandline` has it, or it has no effect
    REFUSED = enum.auto()  # pointless without a machine


class Option(NamedTuple):
    """A row of the table.

    Attributes:
        argument: The syntax of the option's value; empty for a flag.
        text: The option's description in `-help`.
        with_fake: Its effect beside `-fake`.
        apply: Parses the value into settings; raises `OptionError` for a wrong value.
    """

    argument: str
    text: str
    with_fake: WithFake
    apply: Apply


OPTIONS: dict[str, Option] = {}
"""All options by name, in the order of `-help`."""

ALIASES: dict[str, str] = {}

PARAMETERS: dict[str, Mapping[str, Kind]] = {}
"""The parameters of options, by QEMU's names of the groups, for `query-command-line-options`."""


def option(
    name: str,
    argument: str,
    text: str,
    *,
    alias: str | None = None,
    group: str | None = None,
    parameters: Mapping[str, Kind] | None = None,
    with_fake: WithFake = WithFake.USED,
) -> Callable[[Apply], Apply]:
    """Add an option to the table; the decorated function parses its value into settings.

    Args:
        name: Its name without the dash.
        argument: The syntax of its value; empty for a flag.
        text: Its description in `-help`.
        alias: A second name, which `-help` does not show.
        group: QEMU's name of the group of its parameters, for `query-command-line-options`.
        parameters: The parameters in its value and their types.
        with_fake: Its effect beside `-fake`.
    """

    def add(apply: Apply) -> Apply:
        OPTIONS[name] = Option(argument, text, with_fake, apply)
        if alias is not None:
            ALIASES[alias] = name
        if group is not None and parameters is not None:
            PARAMETERS[group] = parameters
        return apply

    return add
