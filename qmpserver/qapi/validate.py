"""Validation of values: a client's arguments are checked and converted, a server's output checked.

Each type is compiled to a closure at its first use, which makes validation fast. An error collects
its position in the value while it propagates, so valid values have no cost for that. The texts of
`ParameterError` are QEMU's, which clients and users know.
"""

from collections.abc import Callable
from typing import NamedTuple

from qmpserver.qapi.model import (
    ANY_INT,
    AlternateType,
    ArrayType,
    EnumType,
    ObjectType,
    QType,
    Type,
)

Visit = Callable[[object], object]
Check = Callable[[object], None]
VisitObject = Callable[[object], dict[str, object]]

_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 64)
# Each range, and its name in QEMU's errors.
_RANGES = {
    "int8": (range(-(1 << 7), 1 << 7), "int8_t"),
    "int16": (range(-(1 << 15), 1 << 15), "int16_t"),
    "int32": (range(-(1 << 31), 1 << 31), "int32_t"),
    "uint8": (range(1 << 8), "uint8_t"),
    "uint16": (range(1 << 16), "uint16_t"),
    "uint32": (range(1 << 32), "uint32_t"),
}
_SIGNED = frozenset({"int", "int8", "int16", "int32", "int64"})
_UNSIGNED = frozenset({"uint8", "uint16", "uint32", "uint64", "size"})


class ParameterError(ValueError):
    """An argument that the schema does not allow; the text is QEMU's.

    Attributes:
        long: A long string that a mark in the text stands for; see `steps`.
    """

    long: object = None

    def __init__(self, form: str, *details: str, nearest: bool = False) -> None:
        super().__init__(form, *details)
        self._form = form
        self._details = details
        # Some of QEMU's errors have only the innermost name, which is "null" in an array.
        self._nearest = nearest
        self._path = ""
        self._name: str | None = None

    @property
    def desc(self) -> str:
        """The error's text, with the position of the invalid value as far as it is known."""
        if self._nearest:
            name = "null" if self._name is None else self._name
        else:
            name = self._path.removeprefix(".") if self._path else "<anonymous>"
        return self._form.format(name, *self._details)

    def within(self, key: str | int) -> None:
        """Add this member or element to the position of the invalid value."""
        if isinstance(key, int):
            self._path = f"[{key}]{self._path}"
            key = "null"
        else:
            self._path = f".{key}{self._path}"
        if self._name is None:
            self._name = key

    def __str__(self) -> str:
        return self.desc


class ResultError(ValueError):
    """A result or an event's data that the schema does not allow: a bug in the server."""


def arguments(type_: ObjectType) -> VisitObject:
    """Return a function that checks and converts a command's arguments.

    It returns a new dict; absent optional members stay absent. It raises ParameterError.
    """
    return Compiler(strict=False).object(type_)


def output(what: str, type_: Type) -> Check:
    """Return a function that checks output of the server, and raises ResultError.

    Args:
        what: The sender, for the error's text.
        type_: The type of the output.
    """
    visit = Compiler(strict=True).visit(type_)

    def check(value: object) -> None:
        try:
            visit(value)
        except ParameterError as error:
            raise ResultError(f"{what} sends what the schema forbids: {error.desc}") from None

    return check


def _wrong_type(expected: str) -> ParameterError:
    return ParameterError("Invalid parameter type for '{}', expected: {}", expected)


class Compiler:
    """Compiles types to closures.

    Input is as lenient as in QEMU: a negative number is valid for an unsigned type, modulo 2**64.
    `strict` is for output, where that is an error.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._done: dict[int, Visit] = {}

    def visit(self, type_: Type) -> Visit:
        """Return the function that checks and converts a value of a type."""
        key = id(type_)
        if key not in self._done:
            # A recursive type finds this while it is being compiled.
            self._done[key] = lambda value: self._done[key](value)
            self._done[key] = self._make(type_)
        return self._done[key]

    def _make(self, type_: Type) -> Visit:
        if isinstance(type_, ObjectType):
            return self.object(type_)
        if isinstance(type_, ArrayType):
            return self._array(type_)
        if isinstance(type_, AlternateType):
            return self._alternate(type_)
        if isinstance(type_, EnumType | QType):
            return _enum(type_)
        if type_ is ANY_INT:
            return _any_int
        if type_.wire == "int":
            return self._integer(type_.name)
        return _SIMPLE[type_.name]

    def _integer(self, name: str) -> Visit:
        limits, shown = _RANGES.get(name, (None, ""))
        signed = name in _SIGNED
        wide = _INT64 if signed else _UINT64
        low, high = wide[0], wide[-1]
        wrap = not signed and not self._strict

        def visit(value: object) -> int:
            # isinstance() would accept a bool.
            if type(value) is int:
                if low <= value <= high:
                    return value
                if wrap and value in _INT64:
                    return value & _UINT64[-1]
            if signed:
                raise _wrong_type("integer")
            raise ParameterError("Parameter '{}' expects {}", "uint64")

        if limits is None:
            return visit

        def narrow(value: object) -> int:
            number = visit(value)
            if number not in limits:
                raise ParameterError("Parameter '{}' expects {}", shown, nearest=True)
            return number

        return narrow

    def _array(self, type_: ArrayType) -> Visit:
        element = self.visit(type_.element)

        def visit(value: object) -> list[object]:
            if not isinstance(value, list):
                raise _wrong_type("array")
            checked: list[object] = []
            try:
                for item in value:
                    checked.append(element(item))
            except ParameterError as error:
                error.within(len(checked))
                raise
            return checked

        return visit

    def _alternate(self, type_: AlternateType) -> Visit:
        shapes: dict[type, Visit] = {}
        for branch in type_.branches.values():
            visit_branch = self.visit(branch.type)
            for python in PYTHON_TYPES[branch.type.wire]:
                shapes[python] = visit_branch

        def visit(value: object) -> object:
            chosen = shapes.get(type(value))
            if chosen is None:
                raise ParameterError(
                    "Invalid parameter type for '{}', expected: {}", type_.name, nearest=True
                )
            return chosen(value)

        return visit

    def object(self, type_: ObjectType) -> VisitObject:
        """Return the function that checks and converts an object."""
        record = self._record(type_)

        def visit(value: object) -> dict[str, object]:
            if not isinstance(value, dict):
                raise _wrong_type("object")
            checked: dict[str, object] = {}
            fields, tag, branches = record
            name = ""
            try:
                while True:
                    for name, required, visit_member in fields:
                        if name in value:
                            checked[name] = visit_member(value[name])
                        elif required:
                            raise ParameterError("Parameter '{}' is missing")
                    if tag is None:
                        break
                    fields, tag, branches = branches[str(checked[tag])]
                if len(checked) != len(value):
                    name = next(key for key in value if key not in checked)
                    raise ParameterError("Parameter '{}' is unexpected")
            except ParameterError as error:
                error.within(name)
                raise
            return checked

        return visit

    def _record(self, type_: ObjectType) -> "_Record":
        return _Record(
            [(one.name, not one.optional, self.visit(one.type)) for one in type_.members],
            type_.tag.name if type_.tag else None,
            {
                case: self._record(branch.type)
                for case, branch in type_.branches.items()
                if isinstance(branch.type, ObjectType)
            },
        )


class _Record(NamedTuple):
    """An object type: members as (name, required, function), and the branches of its tag."""

    fields: list[tuple[str, bool, Visit]]
    tag: str | None
    branches: dict[str, "_Record"]


def _enum(type_: EnumType | QType) -> Visit:
    values = frozenset(member.name for member in type_.values)

    def visit(value: object) -> str:
        if not isinstance(value, str):
            raise _wrong_type("string")
        if value not in values:
            raise ParameterError("Parameter '{}' does not accept value '{}'", value, nearest=True)
        return value

    return visit


def _any_int(value: object) -> int:
    if type(value) is int and _INT64[0] <= value <= _UINT64[-1]:
        return value
    raise _wrong_type("integer")


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type("string")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type("boolean")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type("number")
    return float(value)


def _null(value: object) -> None:
    if value is not None:
        raise _wrong_type("null")


def _any(value: object) -> object:
    return value


_SIMPLE: dict[str, Visit] = {
    "str": _str,
    "bool": _bool,
    "number": _number,
    "null": _null,
    "any": _any,
}
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "int": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
