"""The properties of devices: their types, and the values that QEMU refuses for them.

Properties are those that the release's `device-list-properties` has. Values come from JSON, or as
strings from an option.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.keyval import OptionError, parse_bool, parse_number, parse_size
from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGES = {
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32)},
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32)},
    "uint64": (-(1 << 63), (1 << 64) - 1),
    "size": (-(1 << 63), (1 << 64) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "int": (-(1 << 63), (1 << 63) - 1),
}
ADDRESS = "PCI address"
"""The type of a PCI device's `addr`; releases list several others for it."""

# Types whose values are strings, besides links. Values of types that are not here are not checked.
_STRINGS = frozenset({"str", "string", "OnOffAuto", "BlockdevOnError"})
# The enumerations with few values; others have no introspection.
_ENUMS = {
    "OnOffAuto": ("auto", "on", "off"),
    "BlockdevOnError": ("report", "ignore", "enospc", "stop", "auto"),
}
# Properties that every device has, and nobody can set.
_READ_ONLY = frozenset({"type", "parent_bus", "hotplugged", "hotpluggable"})
_SECTORS = ("logical_block_size", "physical_block_size")
_MAX_SECTOR = 2 << 20
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_ADDRESS = re.compile(r"(?:0x)?0*1?[0-9a-fA-F](?:\.(?:0x)?0*[0-7])?")


def check_names(driver: str, types: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Check that a device has the properties that are given.

    Raises:
        CommandError: It lacks one.
    """
    for name in given:
        if name in _READ_ONLY:
            raise CommandError(f"Property '{driver}.{name}' is not writable")
        if name not in types and name != "realized":
            raise CommandError(f"Property '{driver}.{name}' not found")


def as_text(value: Any) -> str | None:
    """Return a JSON value as an option's; None for one that options do not have."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return None if isinstance(value, dict | list) or value is None else str(value)


def from_text(name: str, type_: str, value: str) -> Any:
    """Return the value of an option as one of a property's type.

    Raises:
        CommandError: It is not a value of the type.
    """
    try:
        if type_ == "bool":
            return parse_bool(name, value)
        if type_ == "size":
            return _number(parse_size, name, value, "size")
        if type_ in _RANGES:
            number = _number(parse_number, name, value, "integer")
            if number and value.lstrip().startswith("-"):
                number -= 1 << 64
            return _in_range(name, type_, number)
    except OptionError as error:
        raise CommandError(str(error)) from None
    return value


def _number(parse: Any, name: str, value: str, what: str) -> int:
    try:
        number: int = parse(name, value)
    except OptionError:
        raise OptionError(f"Parameter '{name}' expects {what}") from None
    return number


def from_json(name: str, type_: str, value: Any) -> Any:
    """Return a JSON value as one of a property's type.

    Raises:
        CommandError: It is not a value of the type.
    """
    if type_ == "bool":
        return _expect(name, value, bool, "boolean")
    if type_ in _RANGES:
        if type(value) is not int and type_.startswith(("u", "s")):
            raise CommandError(f"Parameter '{name}' expects uint64")
        return _in_range(name, type_, _expect(name, value, int, "integer"))
    if type_ in _STRINGS or type_.startswith("link<"):
        return _expect(name, value, str, "string")
    return value


def _expect(name: str, value: Any, type_: type, words: str) -> Any:
    if type(value) is not type_:
        raise CommandError(f"Invalid parameter type for '{name}', expected: {words}")
    return value


def _in_range(name: str, type_: str, number: int) -> int:
    low, high = _RANGES[type_]
    if not low <= number <= high:
        raise CommandError(f"Parameter '{name}' expects {type_}_t")
    return number


def check_value(owner: str, name: str, type_: str, value: Any) -> None:
    """Check a value that has the property's type.

    Args:
        owner: The type of the object that has the property.
        name: The property.
        type_: Its type.
        value: The value.

    Raises:
        CommandError: The property does not take it.
    """
    if type_ in _ENUMS and value not in _ENUMS[type_]:
        raise CommandError(f"Parameter '{name}' does not accept value '{value}'")
    takes = True
    if name == "mac" and type_ == "str":
        takes = _MAC.fullmatch(value) is not None
    elif type_ == ADDRESS and type(value) is int:
        if not -1 <= value <= 255:
            raise CommandError("Parameter 'addr' expects a value between -1 and 255")
    elif type_ == ADDRESS:
        if not isinstance(value, str):
            words = ": integer" if isinstance(value, float) else " int or str"
            raise CommandError(f"Invalid parameter type for 'addr', expected{words}")
        takes = _ADDRESS.fullmatch(value) is not None
    if name in _SECTORS and value and not (is_power_of_2(value) and 512 <= value <= _MAX_SECTOR):
        limits = f"must be a power of 2 between 512 and {_MAX_SECTOR}"
        raise CommandError(f"parameter {name} {limits}")
    if not takes:
        raise CommandError(f"Property '{owner}.{name}' doesn't take value '{value}'")


def is_power_of_2(value: Any) -> bool:
    """Return whether a value is a number that is a power of 2."""
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0
