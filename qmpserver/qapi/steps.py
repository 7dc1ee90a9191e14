"""Validation of arguments that are too large for one step: finds the error that QEMU reports.

Values come as nodes, which keep their contents elsewhere and yield None between steps. Small parts
are checked as `validate` checks them.
"""

from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol

from qmpserver.qapi.model import AlternateType, ArrayType, ObjectType, Type
from qmpserver.qapi.validate import PYTHON_TYPES, Compiler, ParameterError

__all__ = ["LONG", "Node", "check_in_steps"]

LONG = "\0"
"""Stands for a long string in an error; no name of a schema contains it."""

Steps = Generator[None, None, None]


class Node(Protocol):
    """A large value, or a part of one."""

    @property
    def value(self) -> Any:
        """A string of any length, another scalar, or the type `dict` or `list`."""

    @property
    def shape(self) -> type:
        """The type of the value in Python."""

    def small(self) -> Any:
        """Return the value as Python's own if it is small, else the node itself."""

    def elements(self) -> "Iterator[Node | None]":
        """Yield the elements of a list, and None between steps."""

    def members(self) -> "Iterator[tuple[Any, Node] | None]":
        """Yield the members of an object, and None between steps."""


def check_in_steps(type_: ObjectType, node: Node) -> Steps:
    """Check a command's arguments in steps.

    Raises:
        ParameterError: The schema does not allow an argument. `LONG` in its text stands for the
            string `long`, if it has one.
    """
    return _Checker().check(type_, node)


class _Checker:
    def __init__(self) -> None:
        self._compiler = Compiler(strict=False)

    def check(self, type_: Type, node: Node) -> Steps:
        """Check one value."""
        visit = self._compiler.visit(type_)
        small = node.small()
        shape = node.shape
        if small is not node:
            visit(small)
            return
        if isinstance(type_, AlternateType):
            fitting = (one.type for one in type_.branches.values())
            type_ = next((one for one in fitting if shape in PYTHON_TYPES[one.wire]), type_)
        if isinstance(type_, ObjectType) and shape is dict:
            yield from self._members(type_, node)
        elif isinstance(type_, ArrayType) and shape is list:
            yield from self._elements(type_.element, node)
        elif shape is str:
            try:
                visit(LONG)
            except ParameterError as error:
                error.long = node.value
                raise
        else:
            visit(shape())

    def _elements(self, type_: Type, node: Node) -> Steps:
        index = 0
        for element in node.elements():
            yield
            if element is None:
                continue
            try:
                yield from self.check(type_, element)
            except ParameterError as error:
                error.within(index)
                raise
            index += 1

    def _members(self, type_: ObjectType, node: Node) -> Steps:
        declared = set(_names(type_))
        given: dict[Any, Node] = {}  # in order of insertion, with one that is not declared
        complete = True
        for member in node.members():
            if member is None:
                yield
            elif member[0] in declared or complete:
                given[member[0]] = member[1]
                complete = complete and member[0] in declared
        checked = set()
        fields = type_
        while True:
            for field in fields.members:
                if field.name in given:
                    checked.add(field.name)
                    try:
                        yield from self.check(field.type, given[field.name])
                    except ParameterError as error:
                        error.within(field.name)
                        raise
                elif not field.optional:
                    raise _error("Parameter '{}' is missing", field.name)
            if fields.tag is None:
                break
            branch = fields.branches.get(str(given[fields.tag.name].value))
            if branch is None or not isinstance(branch.type, ObjectType):
                break
            fields = branch.type
        for name in given:
            if name not in checked:
                raise _error("Parameter '{}' is unexpected", name)


def _error(form: str, name: Any) -> ParameterError:
    error = ParameterError(form)
    if isinstance(name, str):
        error.within(name)
    else:
        error.within(LONG)
        error.long = name
    return error


def _names(type_: ObjectType) -> Iterable[str]:
    """Yield the names of all members, those of branches included."""
    for member in type_.members:
        yield member.name
    for branch in type_.branches.values():
        if isinstance(branch.type, ObjectType):
            yield from _names(branch.type)
