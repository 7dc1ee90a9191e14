"""From definitions to entities: references, and the rules that involve several definitions."""

from collections.abc import Iterable

from qmpserver.qapi.check import check, flat
from qmpserver.qapi.conditions import holds, prune
from qmpserver.qapi.doc import Doc
from qmpserver.qapi.interface import Command, Event, Named
from qmpserver.qapi.model import (
    EMPTY,
    PREDEFINED,
    AlternateType,
    ArrayType,
    Branch,
    Definition,
    EnumType,
    Feature,
    Member,
    ObjectType,
    QType,
    Type,
)
from qmpserver.qapi.parser import Parsed
from qmpserver.qapi.source import Location

# Features of an interface: commands, events, members and values have them, types do not.
_SPECIAL = frozenset({"deprecated", "unstable"})


def resolve(parsed: Parsed, conditions: frozenset[str] | None) -> list[Doc | Named]:
    """Return the entities and free-form comments of a schema that was parsed, in its order.

    Entities whose `if` does not hold under these `conditions` are checked and left out; None for
    `conditions` keeps them all.

    Raises:
        SchemaError: The schema is invalid.
    """
    return _Resolver().resolve(parsed, conditions)


class _Resolver:
    """Works in steps: the syntax of each definition, names, references, conditions."""

    def __init__(self) -> None:
        self._names: dict[str, Definition | None] = dict.fromkeys(PREDEFINED)
        self._types: dict[str, Type] = dict(PREDEFINED)
        self._arrays: dict[str, ArrayType] = {}
        self._entities: dict[int, Named] = {}
        # Object types whose members are being resolved, and those that are complete.
        self._begun: set[int] = set()
        self._complete: set[int] = set()

    def resolve(self, parsed: Parsed, conditions: frozenset[str] | None) -> list[Doc | Named]:
        kinds = [check(definition) for definition in parsed.definitions]
        for (kind, name), definition in zip(kinds, parsed.definitions, strict=True):
            self._declare(kind, name, definition)
        for definition in parsed.definitions:
            self._resolve(definition)
        sequence: list[Doc | Named] = []
        for entry in parsed.sequence:
            if isinstance(entry, Doc):
                sequence.append(entry)
                continue
            entity = self._entities[id(entry)]
            if conditions is not None:
                prune(entity, conditions)
                if not holds(entity.condition, conditions):
                    continue
            sequence.append(entity)
        return sequence

    # First pass: the names, which share one name space

    def _declare(self, kind: str, name: str, definition: Definition) -> None:
        if name in self._names:
            before = self._names[name]
            where = f"at {before.location.file}:{before.location.line}" if before else "as built in"
            raise definition.location.error(f"'{name}' is already defined, {where}")
        self._names[name] = definition
        entity: Named
        if kind == "command":
            entity = Command(name, definition)
        elif kind == "event":
            entity = Event(name, definition)
        else:
            if kind == "enum":
                entity = EnumType(name, definition)
            elif kind == "alternate":
                entity = AlternateType(name, definition)
            else:
                entity = ObjectType(name, kind, definition)
            self._types[name] = entity
        self._entities[id(definition)] = entity

    # Second pass: references

    def _resolve(self, definition: Definition) -> None:
        entity = self._entities[id(definition)]
        if isinstance(entity, EnumType):
            self._type_features(entity.features, entity, definition.location)
            _no_clash(entity.values, {}, definition.location, "value")
            described = entity.values
        elif isinstance(entity, ObjectType):
            self._type_features(entity.features, entity, definition.location)
            self._object(entity)
            described = entity.listed
        elif isinstance(entity, AlternateType):
            self._type_features(entity.features, entity, definition.location)
            self._alternate(entity, definition)
            described = [Member(name, {}) for name in entity.branches]
        elif isinstance(entity, Command):
            entity.arguments = self._data(entity, definition)
            if "returns" in definition.value:
                entity.returns = self._reference(
                    definition.value["returns"], definition.location, "'returns'"
                )
                self._check_returns(entity, entity.returns)
            described = entity.arguments.own if entity.arguments.definition is None else []
        else:
            entity.data = self._data(entity, definition)
            described = entity.data.own if entity.data.definition is None else []
        if definition.doc is not None:
            _match_doc(definition.doc, definition.location, entity.features, described)

    def _type_features(self, features: list[Feature], owner: Type, location: Location) -> None:
        for feature in features:
            if feature in _SPECIAL:
                raise location.error(
                    f"{owner.describe()} cannot have feature '{feature}', which is not for types"
                )

    def _reference(self, value: object, location: Location, what: str) -> Type:
        if isinstance(value, list):
            name = value[0]
            if name not in self._arrays:
                self._arrays[name] = ArrayType(self._reference(name, location, what))
            return self._arrays[name]
        assert isinstance(value, str)
        type_ = self._types.get(value)
        if type_ is None:
            raise location.error(f"{what} uses type '{value}', which is not defined")
        return type_

    def _members(self, data: object, location: Location) -> list[Member]:
        assert isinstance(data, dict)
        members = []
        for key, spec in data.items():
            member = Member(key, spec)
            member.type = self._reference(spec["type"], location, f"member '{member.name}'")
            members.append(member)
        return members

    def _object(self, entity: ObjectType) -> None:
        definition = entity.definition
        if definition is None or id(entity) in self._complete:
            return
        value, location = definition.value, definition.location
        if id(entity) in self._begun:
            raise location.error(f"{entity.describe()} contains itself")
        self._begun.add(id(entity))
        seen: dict[str, Member] = {}
        base = value.get("base")
        if isinstance(base, dict):
            entity.base = self._implicit(base, entity.name, location, "base")
        elif base is not None:
            type_ = self._reference(base, location, "'base'")
            if not isinstance(type_, ObjectType) or type_.kind != "struct":
                raise location.error(f"'base' must be a struct, not {type_.describe()}")
            self._object(type_)
            entity.base = type_
        if entity.base is not None:
            _no_clash(entity.base.members, seen, location, "member")
        if entity.kind == "struct":
            entity.own = self._members(value["data"], location)
            _no_clash(entity.own, seen, location, "member")
        else:
            self._branches(entity, value, location, seen)
        entity.members = list(seen.values())
        self._complete.add(id(entity))

    def _branches(
        self,
        entity: ObjectType,
        value: dict[str, object],
        location: Location,
        seen: dict[str, Member],
    ) -> None:
        name, data = value["discriminator"], value["data"]
        assert isinstance(name, str)
        assert isinstance(data, dict)
        tag = seen.get(flat(name))
        if tag is None or tag.name != name:
            raise location.error(f"discriminator '{name}' is not a member of 'base'")
        if not isinstance(tag.type, EnumType | QType):
            raise location.error(f"discriminator '{name}' must be of an enum type")
        if tag.optional:
            raise location.error(f"discriminator '{name}' must not be optional")
        if tag.condition is not None:
            raise location.error(f"discriminator '{name}' must not depend on a condition")
        if not tag.type.values:
            raise location.error(f"{entity.describe()} has no branch")
        entity.tag = tag
        values = {member.name for member in tag.type.values}
        for case, spec in data.items():
            branch = Branch(case, spec.get("if"))
            branch.type = self._reference(spec["type"], location, f"branch '{case}'")
            if case not in values:
                raise location.error(f"branch '{case}' is not a value of {tag.type.describe()}")
            if not isinstance(branch.type, ObjectType):
                raise location.error(
                    f"branch '{case}' must be a struct or union, not {branch.type.describe()}"
                )
            self._object(branch.type)
            _no_clash_inside(branch.type, dict(seen), location, case)
            entity.branches[case] = branch
        # A value without a branch adds no members.
        for member in tag.type.values:
            if member.name not in entity.branches:
                branch = entity.branches[member.name] = Branch(member.name, member.condition)
                branch.type = EMPTY

    def _alternate(self, entity: AlternateType, definition: Definition) -> None:
        location = definition.location
        data = definition.value["data"]
        assert isinstance(data, dict)
        names: dict[str, Member] = {}
        taken: dict[str, str] = {}
        for name, spec in data.items():
            branch = entity.branches[name] = Branch(name, spec.get("if"))
            branch.type = self._reference(spec["type"], location, f"branch '{name}'")
            _no_clash([Member(name, {})], names, location, "branch")
            for shape in _shapes(branch.type):
                if shape == "value":
                    raise location.error(f"branch '{name}' cannot be {branch.type.describe()}")
                if shape in taken:
                    raise location.error(
                        f"branches '{taken[shape]}' and '{name}' have the same JSON type"
                    )
                taken[shape] = name

    def _implicit(
        self, data: dict[str, object], owner: str, location: Location, role: str
    ) -> ObjectType:
        implicit = ObjectType(f"q_obj_{owner}-{role}", "struct")
        implicit.own = implicit.members = self._members(data, location)
        _no_clash(implicit.own, {}, location, "member")
        return implicit

    def _data(self, entity: Command | Event, definition: Definition) -> ObjectType:
        data, location = definition.value.get("data"), definition.location
        if data is None or data == {}:
            return EMPTY
        if isinstance(data, dict):
            implicit = self._implicit(data, entity.name, location, "arg")
            implicit.condition = entity.condition
            return implicit
        type_ = self._reference(data, location, "'data'")
        if not isinstance(type_, ObjectType):
            raise location.error(f"'data' must be a struct or union, not {type_.describe()}")
        if type_.kind == "union" and not entity.boxed:
            raise location.error(f"'data' can be {type_.describe()} only with 'boxed': true")
        return type_

    def _check_returns(self, entity: Command, type_: Type) -> None:
        if entity.name in entity.location.pragmas.command_returns:
            return
        element = type_.element if isinstance(type_, ArrayType) else type_
        if not isinstance(element, ObjectType):
            raise entity.location.error(
                f"'returns' must be a struct, a union or an array of them, not {type_.describe()}"
            )


def _no_clash(
    members: Iterable[Member], seen: dict[str, Member], location: Location, role: str
) -> None:
    for member in members:
        other = seen.setdefault(flat(member.name), member)
        if other is not member:
            how = "appears twice" if other.name == member.name else f"clashes with '{other.name}'"
            raise location.error(f"{role} '{member.name}' {how}")


def _no_clash_inside(
    type_: ObjectType, seen: dict[str, Member], location: Location, case: str
) -> None:
    _no_clash(type_.members, seen, location, f"in branch '{case}' member")
    for branch in type_.branches.values():
        if isinstance(branch.type, ObjectType):
            _no_clash_inside(branch.type, dict(seen), location, case)


def _shapes(type_: Type) -> set[str]:
    """Return the JSON types that select an alternate's branch of this type.

    A string also excludes number and boolean, because the same schema also parses command lines,
    where a number and `on` are strings.
    """
    if type_.wire == "int":
        return {"number"}
    if type_.wire != "string":
        return {type_.wire}
    if not isinstance(type_, EnumType | QType):
        return {"string", "number", "boolean"}
    shapes = {"string"}
    for value in type_.values:
        if value.name in ("on", "off"):
            shapes.add("boolean")
        if value.name[0] in "-+0123456789.":
            shapes.add("number")
    return shapes


def _match_doc(
    doc: Doc, location: Location, features: list[Feature], members: list[Member]
) -> None:
    """Check that all documented members and features exist, and all features are documented."""
    names = {member.name for member in members}
    for name, section in doc.members.items():
        if name not in names:
            raise section.location.error(f"documented member '{name}' does not exist")
    known: list[str] = list(features)
    for member in members:
        known += member.features
    for name, section in doc.features.items():
        if name not in known:
            raise section.location.error(f"documented feature '{name}' does not exist")
    for name in known:
        if name not in doc.features:
            raise location.error(f"feature '{name}' is not documented")
