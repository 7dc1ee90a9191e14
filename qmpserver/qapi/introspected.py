"""A schema from a result of `query-qmp-schema`, or a compiled one: the inverse of `introspect`.

Introspection has neither the names of types nor the widths of integers, so any integer of 64 bits
is valid. A compiled schema has both.
"""

from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Any

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.model import (
    ANY,
    ANY_INT,
    EMPTY,
    INT,
    PREDEFINED,
    AlternateType,
    ArrayType,
    Branch,
    Definition,
    EnumType,
    Member,
    ObjectType,
    Type,
    features_of,
)
from qmpserver.qapi.source import Location, Pragmas, SchemaError

SOURCE = "query-qmp-schema"
# Commands whose arguments QEMU parses itself: introspection shows only some of them.
_PARSED_BY_HANDLER = frozenset({"device_add"})

# Built-in types by the JSON type that introspection gives them: their names are the server's.
_BUILTIN: dict[str, Type] = {
    "string": PREDEFINED["str"],
    "number": PREDEFINED["number"],
    "int": ANY_INT,
    "boolean": PREDEFINED["bool"],
    "null": PREDEFINED["null"],
    "value": ANY,
}

# A compiled schema has no `int`, which is the name of all integers in introspection.
_WIDTHS = {name: one for name, one in PREDEFINED.items() if one.wire == "int" and one is not INT}

_LOCATION = Location(SOURCE, 0, Pragmas())
_Info = Mapping[str, Any]


def entities(infos: Iterable[_Info], *, lazy: bool = False) -> list[Command | Event]:
    """Return the described commands and events.

    Args:
        infos: The description.
        lazy: Make the types of a command or event when they are first needed. The description must
            be valid.

    Raises:
        SchemaError: The description is invalid.
    """
    try:
        found: list[Command | Event] = []
        for one in _Reader(infos).entities():
            if not lazy:
                one.make_types()
            found.append(one)
        return found
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise SchemaError(SOURCE, None, f"invalid introspection: {error!r}") from None


class _Command(Command):
    """A command that makes its types when they are first needed."""

    def __init__(self, info: _Info, reader: "_Reader") -> None:
        name = info["name"]
        flags = {"allow-oob": True} if info.get("allow-oob") else {}
        flags |= {flag: False for flag in ("gen", "success-response") if flag in info}
        if name in _PARSED_BY_HANDLER:
            flags["gen"] = False
        super().__init__(name, _definition(info, flags))
        self._info = info
        self._reader = reader
        del self.arguments, self.returns

    def __getattr__(self, name: str) -> object:
        if name not in ("arguments", "returns"):
            raise AttributeError(name)
        self.make_types()
        return getattr(self, name)

    def make_types(self) -> None:
        with self._reader.lock:
            self.arguments = self._reader.object(self._info["arg-type"])
            self.returns = self._reader.type(self._info["ret-type"])


class _Event(Event):
    """An event that makes its type when it is first needed."""

    def __init__(self, info: _Info, reader: "_Reader") -> None:
        super().__init__(info["name"], _definition(info))
        self._info = info
        self._reader = reader
        del self.data

    def __getattr__(self, name: str) -> object:
        if name != "data":
            raise AttributeError(name)
        self.make_types()
        return self.data

    def make_types(self) -> None:
        with self._reader.lock:
            self.data = self._reader.object(self._info["arg-type"])


class _Reader:
    """Makes types from their descriptions; hold `lock`, since a type is entered before it is whole.

    Attributes:
        lock: Guards the types.
    """

    def __init__(self, infos: Iterable[_Info]) -> None:
        self.lock = Lock()
        self._infos = {info["name"]: info for info in infos}
        self._types: dict[str, Type] = {}

    def entities(self) -> Iterator[_Command | _Event]:
        for info in self._infos.values():
            if info["meta-type"] == "command":
                yield _Command(info, self)
            elif info["meta-type"] == "event":
                yield _Event(info, self)

    def object(self, name: str) -> ObjectType:
        type_ = self.type(name)
        if not isinstance(type_, ObjectType):
            raise TypeError(f"type {name} is not an object")
        return type_

    def type(self, name: str) -> Type:
        if name not in self._types:
            self._make(name, self._infos[name])
        return self._types[name]

    def _make(self, name: str, info: _Info) -> None:
        # A recursive type must find itself here, so a type is entered before it is complete.
        match info["meta-type"]:
            case "builtin":
                builtin = _BUILTIN[info["json-type"]]
                self._types[name] = _WIDTHS.get(name, ANY_INT) if builtin is ANY_INT else builtin
            case "array":
                self._types[name] = array = ArrayType(EMPTY)
                array.element = self.type(info["element-type"])
                if isinstance(array.element, ArrayType):
                    raise TypeError(f"array {name} has arrays as elements")
                array.name = f"{array.element.name}List"
            case "enum":
                values = info.get("members") or [{"name": one} for one in info["values"]]
                data = [{"name": one["name"], **_features(one)} for one in values]
                self._types[name] = EnumType(name, _definition(info, {"data": data}))
            case "alternate":
                alternate = AlternateType(name, _definition(info))
                self._types[name] = alternate
                for number, one in enumerate(info["members"]):
                    branch = alternate.branches[str(number)] = Branch(str(number), None)
                    branch.type = self.type(one["type"])
                    if isinstance(branch.type, AlternateType):
                        raise TypeError(f"alternate {name} has an alternate as a branch")
            case "object":
                self._types[name] = type_ = ObjectType(name, "struct")
                self._fill(type_, info)
            case kind:
                raise TypeError(f"{name} is of unknown kind {kind}")

    def _fill(self, type_: ObjectType, info: _Info) -> None:
        type_.features = features_of(_features(info))
        for one in info["members"]:
            star = "*" if "default" in one else ""
            member = Member(f"{star}{one['name']}", _features(one))
            member.type = self.type(one["type"])
            type_.own.append(member)
        type_.members = type_.own
        if "tag" not in info:
            return
        type_.kind = "union"
        type_.tag = {member.name: member for member in type_.members}[info["tag"]]
        for variant in info["variants"]:
            branch = type_.branches[variant["case"]] = Branch(variant["case"], None)
            branch.type = self.object(variant["type"])
        if isinstance(type_.tag.type, EnumType):
            known = {value.name for value in type_.tag.type.values}
            if unknown := type_.branches.keys() - known:
                raise TypeError(f"tag {info['tag']} has no value {min(unknown)}")
            for value in type_.tag.type.values:
                if value.name not in type_.branches:
                    branch = type_.branches[value.name] = Branch(value.name, None)
                    branch.type = EMPTY


def _features(info: _Info) -> dict[str, object]:
    names = info.get("features")
    return {"features": [{"name": name} for name in names]} if names else {}


def _definition(info: _Info, more: Mapping[str, object] | None = None) -> Definition:
    return Definition({**_features(info), **(more or {})}, _LOCATION, None)
