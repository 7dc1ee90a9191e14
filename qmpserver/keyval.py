"""QEMU's option strings: `value,key=value,flag`.

This module knows the syntax, the types of values, and QEMU's error messages; the caller
says which options exist.
"""

import enum
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = [
    "IDENTIFIER",
    "Kind",
    "OptionError",
    "Options",
    "kinds",
    "parse_bool",
    "parse_keyval",
    "parse_members",
    "parse_number",
    "parse_options",
    "parse_size",
    "split_options",
]


class OptionError(Exception):
    """An option is invalid or cannot be satisfied.

    Args:
        message: One line, in QEMU's words.
        hint: Further advice, if QEMU has some; may have several lines.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Kind(enum.Enum):
    """The type of an option's values."""

    STRING = enum.auto()
    BOOL = enum.auto()
    NUMBER = enum.auto()
    SIZE = enum.auto()
    SIZE_IN_MIB = enum.auto()  # a size in MiB if it names no unit


def kinds(string: str = "", boolean: str = "", number: str = "", size: str = "") -> dict[str, Kind]:
    """Return the kinds of options, given their names by kind, separated by spaces."""
    named = {Kind.STRING: string, Kind.BOOL: boolean, Kind.NUMBER: number, Kind.SIZE: size}
    return {name: kind for kind, names in named.items() for name in names.split()}


class Option(NamedTuple):
    """One `key=value` of an option string; `short` if `=value` was left out."""

    name: str
    value: str
    short: bool = False


class Options:
    """A parsed option string; the last value of a repeated option counts.

    Attributes:
        id: The `id` option, or None.
        short_forms: The options given as `name` or `noname`, a deprecated form in QEMU.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self.short_forms: list[str] = []
        self._values: dict[str, str | bool | int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def set(self, name: str, value: str | bool | int) -> None:
        """Set option `name` to a value of its declared type."""
        self._values[name] = value

    def string(self, name: str) -> str | None:
        """Return the value of a STRING option, or None if it is not given."""
        value = self._values.get(name)
        assert value is None or isinstance(value, str)
        return value

    def bool(self, name: str, default: bool = False) -> bool:
        """Return the value of a BOOL option."""
        value = self._values.get(name, default)
        assert isinstance(value, bool)
        return value

    def number(self, name: str, default: int = 0) -> int:
        """Return the value of a NUMBER or SIZE option."""
        value = self._values.get(name, default)
        assert isinstance(value, int)
        return value


def parse_options(
    text: str, kinds: Mapping[str, Kind] | None = None, *, implied: str | None = None
) -> Options:
    """Parse an option string.

    Args:
        text: The string.
        kinds: The known options; None accepts all, as strings.
        implied: The option of a first value without a key.

    Raises:
        OptionError: An option is unknown, or its value is invalid.
    """
    options = Options()
    for name, value, short in split_options(text, implied):
        if name == "id":
            if not re.fullmatch(IDENTIFIER, value):
                raise OptionError(
                    "Parameter 'id' expects an identifier",
                    "Identifiers consist of letters, digits, '-', '.', '_', "
                    "starting with a letter.",
                )
            if options.id is None:
                options.id = value
            continue
        if kinds is None:
            kind = Kind.STRING
        elif name in kinds:
            kind = kinds[name]
        else:
            raise OptionError(f"Invalid parameter '{name}'")
        if short:
            options.short_forms.append(name if value == "on" else f"no{name}")
        match kind:
            case Kind.STRING:
                options.set(name, value)
            case Kind.BOOL:
                options.set(name, parse_bool(name, value))
            case Kind.NUMBER:
                options.set(name, parse_number(name, value))
            case Kind.SIZE:
                options.set(name, parse_size(name, value))
            case Kind.SIZE_IN_MIB:
                options.set(name, parse_size(name, value, "M"))
    return options


def split_options(text: str, implied: str | None = None) -> Iterator[Option]:
    """Yield the options of a string; two commas in a row stand for one in a value."""
    position = 0
    while position < len(text):
        match = _NAME.match(text, position)
        assert match is not None
        name = match[0]
        if text[match.end() : match.end() + 1] == "=":
            value, position = _value(text, match.end() + 1)
            yield Option(name, value)
        elif implied is not None:
            value, position = _value(text, position)
            yield Option(implied, value)
        else:
            position = match.end() + 1
            if name.startswith("no"):
                yield Option(name[2:], "off", short=True)
            else:
                yield Option(name, "on", short=True)
        implied = None


def parse_keyval(text: str, implied: str | None = None) -> dict[str, Any]:
    """Return the members of an option string whose keys are dotted, as objects and arrays.

    `a.b=1` is a member of an object, `a.0=1,a.1=2` are the elements of an array. All scalars are
    strings: the type of the whole says which of them stand for numbers and booleans.

    Raises:
        OptionError: A key is invalid, or is both a value and the beginning of another key.
    """
    top: dict[str, Any] = {}
    for name, value, short in split_options(text, implied):
        if short:
            flag = name if value == "on" else f"no{name}"
            raise OptionError(f"Expected '=' after parameter '{flag}'")
        *parents, last = name.split(".")
        if not all(re.fullmatch(_FRAGMENT, one) for one in (*parents, last)):
            raise OptionError(f"Invalid parameter '{name}'")
        inner = top
        for index, parent in enumerate(parents, 1):
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise OptionError(f"Parameters '{'.'.join(parents[:index])}.*' used inconsistently")
        if isinstance(inner.get(last), dict):
            raise OptionError(f"Parameters '{name}.*' used inconsistently")
        inner[last] = value
    return {name: _listed(value, name) for name, value in top.items()}


def parse_members(text: str, implied: str | None = None) -> dict[str, Any]:
    """Return the members of an option whose value is JSON, or has dotted keys (`parse_keyval`).

    Those that name the thing and its type are strings; scalars of JSON have types.

    Raises:
        OptionError: It is neither.
    """
    if not text.startswith("{"):
        return parse_keyval(text, implied)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise OptionError("JSON parse error, invalid value") from None
    for name in ("driver", "id", "node-name", "qom-type", "type"):
        if not isinstance(found.get(name, ""), str):
            raise OptionError(f"Invalid parameter type for '{name}', expected: string")
    members: dict[str, Any] = found
    return members


def _listed(value: Any, name: str) -> Any:
    """Return a member with the objects in it whose keys are numbers as arrays."""
    if not isinstance(value, dict):
        return value
    made = {key: _listed(one, f"{name}.{key}") for key, one in value.items()}
    numbers = [key for key in made if key.isdecimal()]
    if not numbers:
        return made
    if len(numbers) < len(made):
        raise OptionError(f"Parameters '{name}.*' used inconsistently")
    for index in range(len(made)):
        if str(index) not in made:
            raise OptionError(f"Parameter '{name}.{index}' missing")
    return [made[str(index)] for index in range(len(made))]


def parse_uuid(text: str) -> str:
    """Return a UUID in lower case.

    Raises:
        OptionError: It is none.
    """
    if not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text.lower()):
        raise OptionError("failed to parse UUID string: wrong format")
    return text.lower()


def parse_bool(name: str, value: str) -> bool:
    """Return the value of a BOOL option.

    Raises:
        OptionError: `value` is not a boolean.
    """
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise OptionError(f"Parameter '{name}' expects 'on' or 'off'")


def parse_number(name: str, value: str) -> int:
    """Return the value of a NUMBER option: decimal, `0x` or octal with a leading 0.

    Raises:
        OptionError: `value` is not a number, or has more than 64 bits.
    """
    match = re.fullmatch(_NUMBER, value)
    if match is None:
        raise OptionError(f"Parameter '{name}' expects a number")
    sign, hexadecimal, octal, decimal = match.groups()
    if len(value) > _LONGEST:
        raise OptionError(f"Value '{value}' is too large for parameter '{name}'")
    number = int(hexadecimal or octal or decimal, 16 if hexadecimal else 8 if octal else 10)
    if number >= _LIMIT:
        raise OptionError(f"Value '{value}' is too large for parameter '{name}'")
    # As in the C library, a minus sign wraps around.
    return -number % _LIMIT if sign == "-" else number


def parse_size(name: str, value: str, default_suffix: str = "B") -> int:
    """Return the value of a SIZE option in bytes.

    Args:
        name: The option, for the error.
        value: Decimal, with an optional fraction and suffix, or `0x` and digits.
        default_suffix: The unit if `value` names none.

    Raises:
        OptionError: `value` is not a size, or is 2^64 or more.
    """
    match = re.fullmatch(_SIZE, value)
    if match is not None:
        hexadecimal, whole, fraction, suffix = match.groups()
        if len(value) > _LONGEST:
            raise OptionError(f"Value '{value}' is out of range for parameter '{name}'")
        scale = 1024 ** _SUFFIXES.index((suffix or default_suffix).upper())
        # In units of 1 / parts, to be exact.
        parts = 10 ** len(fraction or "")
        number = int(hexadecimal, 16) if hexadecimal else int(whole + (fraction or ""))
        if scale > 1 or number % parts == 0:
            size: int = (number * scale * 2 + parts) // (parts * 2)
            if size >= _LIMIT:
                raise OptionError(f"Value '{value}' is out of range for parameter '{name}'")
            return size
    raise OptionError(
        f"Parameter '{name}' expects a non-negative number below 2^64",
        "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
        "and exabytes, respectively.",
    )


_LONGEST = 1000  # characters of a number; Python's int() refuses more than 4300 digits
_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})
IDENTIFIER = r"[A-Za-z][-A-Za-z0-9._]*"
_NAME = re.compile(r"[^=,]*")
_FRAGMENT = r"[A-Za-z][-A-Za-z0-9_]*|[0-9]{1,9}|__[-A-Za-z0-9._]+"
_NUMBER = r"[ \t\n\v\f\r]*([-+]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))"
_SIZE = r"[ \t\n\v\f\r]*\+?(?:0[xX]([0-9a-fA-F]+)|([0-9]+)(?:\.([0-9]*))?([bBkKmMgGtTpPeE])?)"
_SUFFIXES = "BKMGTPE"
_LIMIT = 1 << 64


def _value(text: str, position: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        comma = text.find(",", position)
        if comma < 0:
            parts.append(text[position:])
            return "".join(parts), len(text)
        if text[comma + 1 : comma + 2] != ",":
            parts.append(text[position:comma])
            return "".join(parts), comma + 1
        parts.append(text[position : comma + 1])
        position = comma + 2
