"""The model of a schema: types, their members and branches, and the definitions' locations.

`resolve` fills in this plain data; all others only read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpserver.qapi.doc import Doc
    from qmpserver.qapi.source import Location


class Definition(NamedTuple):
    """A top-level expression that is not a directive."""

    value: dict[str, object]
    location: Location
    doc: Doc | None


class Type:
    """Any type.

    Attributes:
        name: Its name in the schema.
        wire: The JSON type of its values: string, number, int, boolean, null, object or array;
            "value" if there is more than one.
    """

    kind = "type"
    wire = "value"

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def describe(self) -> str:
        """Return the type's description in error messages."""
        return f"{self.kind} '{self.name}'"


class BuiltinType(Type):
    """A predefined type."""

    kind = "built-in type"

    def __init__(self, name: str, wire: str) -> None:
        super().__init__(name)
        self.wire = wire


class ArrayType(Type):
    """An array of `element`."""

    kind = "array"
    wire = "array"

    def __init__(self, element: Type) -> None:
        super().__init__(f"{element.name}List")
        self.element = element

    def describe(self) -> str:
        """Return the type's description in error messages."""
        return f"array of {self.element.describe()}"


class Entity:
    """A definition in the schema's text, with its location, documentation and condition."""

    def __init__(self, name: str, definition: Definition) -> None:
        self.name = name
        self.location = definition.location
        self.doc = definition.doc
        self.condition = definition.value.get("if")
        self.features = features_of(definition.value)


class Member:
    """A member of an object, or a value of an enum (which has no type)."""

    __slots__ = ("condition", "features", "name", "optional", "type")

    def __init__(self, key: str, spec: Mapping[str, object]) -> None:
        self.optional = key.startswith("*")
        self.name = key.removeprefix("*")
        self.condition = spec.get("if")
        self.features = features_of(spec)
        self.type: Type = UNRESOLVED


class Feature(str):
    """A feature's name, with the condition under which it exists."""

    __slots__ = ("condition",)
    condition: object


class EnumType(Type, Entity):
    """An enumeration."""

    kind = "enum"
    wire = "string"

    def __init__(self, name: str, definition: Definition) -> None:
        Entity.__init__(self, name, definition)
        data = definition.value["data"]
        assert isinstance(data, list)
        self.values = [Member(value["name"], value) for value in data]
        self.prefix = definition.value.get("prefix")


class QType(Type):
    """The built-in enumeration of JSON types."""

    kind = "enum"
    wire = "string"

    def __init__(self) -> None:
        super().__init__("QType")
        names = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
        self.values = [Member(name, {}) for name in names]
        self.features: list[Feature] = []


class ObjectType(Type):
    """A struct, a union, or the unnamed list of members of a command, an event or a union's base.

    Attributes:
        definition: The definition; None for an unnamed type.
        base: The type whose members it inherits.
        own: The members that it adds to its base.
        members: All members except those of branches.
        tag: The member of a union that selects the branch.
        branches: The branches of a union, by the tag's value.
    """

    wire = "object"

    def __init__(self, name: str, kind: str, definition: Definition | None = None) -> None:
        super().__init__(name)
        self.kind = kind
        self.definition = definition
        self.doc = definition.doc if definition else None
        self.condition = definition.value.get("if") if definition else None
        self.features = features_of(definition.value) if definition else []
        self.base: ObjectType | None = None
        self.own: list[Member] = []
        self.members: list[Member] = []
        self.tag: Member | None = None
        self.branches: dict[str, Branch] = {}

    @property
    def listed(self) -> list[Member]:
        """The members that its definition lists; those of a union are in its unnamed base."""
        if self.base is not None and self.base.definition is None:
            return self.base.own
        return self.own


class Branch:
    """A branch of a union or an alternate."""

    __slots__ = ("condition", "name", "type")

    def __init__(self, name: str, condition: object) -> None:
        self.name = name
        self.condition = condition
        self.type: Type = UNRESOLVED


class AlternateType(Type, Entity):
    """A choice between types that differ on the wire."""

    kind = "alternate"

    def __init__(self, name: str, definition: Definition) -> None:
        Entity.__init__(self, name, definition)
        self.branches: dict[str, Branch] = {}


def features_of(value: Mapping[str, object]) -> list[Feature]:
    """Return the features of an expression."""
    features = value.get("features")
    if not features:
        return []
    assert isinstance(features, list)
    made = []
    for spec in features:
        feature = Feature(spec["name"])
        feature.condition = spec.get("if")
        made.append(feature)
    return made


UNRESOLVED = Type("unresolved")
# The arguments or result of a command that has none; a branch that adds no members.
EMPTY = ObjectType("q_empty", "struct")
_BUILTIN = {
    name: BuiltinType(name, wire)
    for wire, names in (
        ("string", "str"),
        ("number", "number"),
        ("int", "int int8 int16 int32 int64 uint8 uint16 uint32 uint64 size"),
        ("boolean", "bool"),
        ("value", "any"),
        ("null", "null"),
    )
    for name in names.split()
}
PREDEFINED: dict[str, Type] = {**_BUILTIN, "QType": QType()}
INT = _BUILTIN["int"]
INT64 = _BUILTIN["int64"]
ANY = _BUILTIN["any"]
# An integer of unknown width: introspection calls all integers `int`.
ANY_INT = BuiltinType("int64 or uint64", "int")
