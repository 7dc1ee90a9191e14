"""Introspection: the result of `query-qmp-schema`.

As in QEMU, numbers replace the names of types, which are not part of the protocol. A compiled
schema is the same with the names of types, the widths of integers and the flags of commands:
`introspected` reads it in a fraction of the time that the schema's text takes.
"""

from collections.abc import Iterable

from qmpserver.qapi.interface import Command, Event
from qmpserver.qapi.model import (
    ANY_INT,
    EMPTY,
    INT,
    INT64,
    AlternateType,
    ArrayType,
    Branch,
    BuiltinType,
    EnumType,
    Feature,
    Member,
    ObjectType,
    QType,
    Type,
)

Info = dict[str, object]


def introspect(commands: Iterable[Command], events: Iterable[Event]) -> list[Info]:
    """Return the description of these commands and events, and of every type that they use."""
    return _Introspection().describe(commands, events)


def compiled(commands: Iterable[Command], events: Iterable[Event]) -> list[Info]:
    """Return what `introspect` does, with nothing masked that the validation of values needs."""
    return _Introspection(masked=False).describe(commands, events)


class _Introspection:
    def __init__(self, *, masked: bool = True) -> None:
        self._masked = masked
        self._infos: list[Info] = []
        self._names: dict[str, str] = {}
        # The types met so far; those at the end are not described yet.
        self._types: dict[str, Type] = {}

    def describe(self, commands: Iterable[Command], events: Iterable[Event]) -> list[Info]:
        for command in commands:
            info: Info = {
                "name": command.name,
                "meta-type": "command",
                "arg-type": self._use(command.arguments),
                "ret-type": self._use(command.returns or EMPTY),
            }
            if command.allow_oob:
                info["allow-oob"] = True
            if not self._masked:
                flags = {"gen": command.gen, "success-response": command.success_response}
                info |= {flag: False for flag, holds in flags.items() if not holds}
            self._add(info, command.features)
        for event in events:
            info = {
                "name": event.name,
                "meta-type": "event",
                "arg-type": self._use(event.data),
            }
            self._add(info, event.features)
        done = 0
        while done < len(self._types):
            # Describing one type can add others.
            for name, type_ in list(self._types.items())[done:]:
                self._describe_type(name, type_)
                done += 1
        return self._infos

    def _add(self, info: Info, features: list[Feature]) -> None:
        if features:
            info["features"] = list(map(str, features))
        self._infos.append(info)

    def _use(self, type_: Type) -> str:
        if type_.wire == "int" and (self._masked or type_ is ANY_INT):
            type_ = INT
        elif type_ is INT:
            type_ = INT64
        if isinstance(type_, ArrayType):
            name = f"[{self._use(type_.element)}]"
        elif isinstance(type_, BuiltinType) or not self._masked:
            name = type_.name
        else:
            name = self._names.setdefault(type_.name, str(len(self._names)))
        self._types.setdefault(name, type_)
        return name

    def _describe_type(self, name: str, type_: Type) -> None:
        info: Info = {"name": name}
        features: list[Feature] = []
        if isinstance(type_, ArrayType):
            info["meta-type"] = "array"
            info["element-type"] = self._use(type_.element)
        elif isinstance(type_, EnumType | QType):
            info["meta-type"] = "enum"
            info["members"] = [_value(value) for value in type_.values]
            info["values"] = [value.name for value in type_.values]
            features = type_.features
        elif isinstance(type_, ObjectType):
            info["meta-type"] = "object"
            info["members"] = [self._member(member) for member in type_.members]
            if type_.tag is not None:
                info["tag"] = type_.tag.name
                info["variants"] = [self._variant(one) for one in type_.branches.values()]
            features = type_.features
        elif isinstance(type_, AlternateType):
            info["meta-type"] = "alternate"
            info["members"] = [{"type": self._use(one.type)} for one in type_.branches.values()]
            features = type_.features
        else:
            info["meta-type"] = "builtin"
            info["json-type"] = type_.wire
        self._add(info, features)

    def _member(self, member: Member) -> Info:
        info: Info = {"name": member.name, "type": self._use(member.type)}
        if member.optional:
            info["default"] = None
        if member.features:
            info["features"] = list(map(str, member.features))
        return info

    def _variant(self, branch: Branch) -> Info:
        return {"case": branch.name, "type": self._use(branch.type)}


def _value(value: Member) -> Info:
    info: Info = {"name": value.name}
    if value.features:
        info["features"] = list(map(str, value.features))
    return info
