"""The schema as Python types, against which a type checker checks handlers.

Each named type of the schema becomes a Python type of the same name, each command a protocol of its
handler, each event with data a type of that data. The output is formatted as `ruff format` does.
"""

import builtins
import keyword
import re
from collections.abc import Iterable, Iterator

from qmpserver.qapi.interface import Command
from qmpserver.qapi.markdown import first_sentence
from qmpserver.qapi.model import (
    EMPTY,
    AlternateType,
    ArrayType,
    Branch,
    EnumType,
    Member,
    ObjectType,
    QType,
    Type,
)
from qmpserver.qapi.schema import Schema

_WIDTH = 100
_IMPORTS = ["Literal", "Never", "NotRequired", "Protocol", "TypeAlias", "TypedDict", "TypeVar"]
_PREFIX = re.compile(r"__[A-Za-z0-9.-]+?_(?=[A-Za-z])")
_SIMPLE = {
    "string": "str",
    "number": "float",
    "int": "int",
    "boolean": "bool",
    "null": "None",
    "value": "object",
}


def python_types(schema: Schema, source: str) -> str:
    """Return a Python module with the types of `schema`; `source` is the file that it names."""
    body = _laid_out(_Writer(schema).blocks())
    imports = ", ".join(name for name in _IMPORTS if re.search(rf"\b{name}\b", body))
    arguments = re.findall(r"^        (\w+): ", body, re.MULTILINE)
    shadows = "A002, " if any(hasattr(builtins, name) for name in arguments) else ""
    return _HEAD.format(source=source, shadows=shadows, imports=imports) + body


_HEAD = '''\
"""The types, commands and events that {source} declares. Generated: do not edit.

Regenerate with `python -m qmpserver.qapi types {source} -o FILE`.
"""

# ruff: noqa: {shadows}D102 -- the schema decides names and documents each handler

from collections.abc import Awaitable
from typing import {imports}

'''


def _laid_out(blocks: Iterable[str]) -> str:
    """Join definitions, with two empty lines around classes and one elsewhere."""
    text = ""
    before = ""
    for block in blocks:
        if before:
            wide = before.startswith("class ") or block.startswith("class ")
            text += "\n\n" if wide else "\n"
        text += block + "\n"
        before = block
    return text


class _Writer:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        # Types whose Python name is bound already; others must be quoted.
        self._bound: set[str] = set()
        # For each union, the type of those tag values whose branches add no members.
        self._tags: dict[str, str] = {}
        for name in schema.types:
            self._names[name] = self._unused(_PREFIX.sub("", name))

    def blocks(self) -> Iterator[str]:
        """Yield each definition, after the parts that it needs."""
        yield '_T = TypeVar("_T")'
        yield "# A handler may be a coroutine function.\nAnswer: TypeAlias = _T | Awaitable[_T]"
        for type_ in self._ordered():
            yield from self._definition(type_)
            self._bound.add(type_.name)
        for event in self._schema.events.values():
            if event.data is not EMPTY and event.data.definition is None:
                name = self._unused(_camel(event.name) + "Data")
                about = f"The data of event `{event.name}`."
                yield _typed_dict(name, about, self._fields(event.data.members))
        handlers: dict[str, str] = {}
        for command in self._schema.commands.values():
            handlers[command.name] = name = self._unused(_camel(command.name) + "Handler")
            yield self._protocol(name, command)
        yield _typed_dict("Handlers", "The type of each command's handler.", handlers)

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _ordered(self) -> Iterable[EnumType | ObjectType | AlternateType]:
        """Return the types, each after the types that it refers to where possible."""
        done: dict[str, EnumType | ObjectType | AlternateType] = {}
        begun: set[str] = set()

        def visit(type_: Type) -> None:
            if isinstance(type_, ArrayType):
                visit(type_.element)
                return
            named = self._schema.types.get(type_.name)
            if named is None or named.name in begun:
                return
            begun.add(named.name)
            if isinstance(named, ObjectType):
                for member in named.members:
                    visit(member.type)
            if isinstance(named, ObjectType | AlternateType):
                for branch in named.branches.values():
                    # A union repeats its branches' members, and so refers to their types.
                    visit(branch.type)
            done[named.name] = named

        for type_ in self._schema.types.values():
            visit(type_)
        return done.values()

    def _definition(self, type_: EnumType | ObjectType | AlternateType) -> Iterator[str]:
        name = self._names[type_.name]
        if isinstance(type_, EnumType):
            yield _literal(name, [value.name for value in type_.values])
        elif isinstance(type_, AlternateType):
            yield _either(name, [self._type(one.type) for one in type_.branches.values()])
        elif type_.tag is None:
            yield _typed_dict(name, _about(type_), self._fields(type_.members))
        else:
            yield from self._union(type_)

    def _union(self, type_: ObjectType) -> Iterator[str]:
        """Yield one type for each branch that adds members, and one for all other branches."""
        name = self._names[type_.name]
        plain = [case for case, branch in type_.branches.items() if _adds_nothing(branch)]
        if plain:
            self._tags[type_.name] = self._unused(f"{name}Tag")
            yield _literal(self._tags[type_.name], plain)
        parts: list[str] = []
        for suffix, fields in self._kinds(type_):
            parts.append(self._unused(name + suffix))
            yield _typed_dict(parts[-1], f"One kind of `{type_.name}`.", fields)
        yield _either(name, parts)

    def _kinds(self, type_: ObjectType) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield, for each case, its part of the type's name and the members of such a value."""
        common = self._fields(type_.members)
        if type_.tag is None:
            yield "", common
            return
        for case, branch in type_.branches.items():
            if isinstance(branch.type, ObjectType) and not _adds_nothing(branch):
                tag = {type_.tag.name: f'Literal["{case}"]'}
                for suffix, added in self._kinds(branch.type):
                    yield _camel(case) + suffix, {**common, **added, **tag}
        if type_.name in self._tags:
            yield "Plain", {**common, type_.tag.name: self._tags[type_.name]}

    def _fields(self, members: list[Member]) -> dict[str, str]:
        return {
            member.name: f"NotRequired[{self._type(member.type)}]"
            if member.optional
            else self._type(member.type)
            for member in members
        }

    def _protocol(self, name: str, command: Command) -> str:
        returns = "None" if command.returns is None else self._type(command.returns)
        members = command.arguments.members
        names = [member.name.replace("-", "_") for member in members]
        if command.arguments.tag is not None or not all(map(_can_be_parameter, names)):
            parameters = "(self, **arguments: object)"
        elif not members:
            parameters = "(self)"
        else:
            lines = [
                f"        {parameter}: {self._type(member.type)}{' = ...' * member.optional},\n"
                for parameter, member in zip(names, members, strict=True)
            ]
            parameters = f"(\n        self,\n        *,\n{''.join(lines)}    )"
        return (
            f'class {name}(Protocol):\n    """Handles `{command.name}`."""\n\n'
            f"    def __call__{parameters} -> Answer[{returns}]: ..."
        )

    def _type(self, type_: Type) -> str:
        if isinstance(type_, ArrayType):
            return f"list[{self._type(type_.element)}]"
        if type_.name in self._names:
            name = self._names[type_.name]
            return name if type_.name in self._bound else f'"{name}"'
        if isinstance(type_, QType):
            return "str"
        return _SIMPLE[type_.wire]


def _adds_nothing(branch: Branch) -> bool:
    return isinstance(branch.type, ObjectType) and not branch.type.members


def _can_be_parameter(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name != "self"


def _can_be_attribute(name: str) -> bool:
    # A class mangles names that start with two underscores.
    return _can_be_parameter(name) and not name.startswith("__")


def _camel(name: str) -> str:
    words = re.split(r"[-_.]", _PREFIX.sub("", name))
    if name.isupper():
        words = [word.lower() for word in words]
    return "".join(word[:1].upper() + word[1:] for word in words)


def _about(type_: ObjectType) -> str:
    sentence = first_sentence(type_.doc)
    # A sentence that would end the string or the line is only in the reference.
    if not sentence or '"' in sentence or "\\" in sentence or len(sentence) > _WIDTH - 10:
        return f"`{type_.name}`."
    return sentence if sentence.endswith(".") else f"{sentence}."


def _typed_dict(name: str, about: str, fields: dict[str, str]) -> str:
    if all(map(_can_be_attribute, fields)):
        lines = [f"    {field}: {type_}" for field, type_ in fields.items()]
        gap = [""] if lines else []
        return "\n".join([f"class {name}(TypedDict):", f'    """{about}"""', *gap, *lines])
    lines = [f'        "{field}": {type_},' for field, type_ in fields.items()]
    return "\n".join(
        [f"# {about}", f"{name} = TypedDict(", f'    "{name}",', "    {", *lines, "    },", ")"]
    )


def _literal(name: str, values: list[str]) -> str:
    if not values:
        return f"{name} = Never"
    quoted = [f'"{value}"' for value in values]
    line = f"{name} = Literal[{', '.join(quoted)}]"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name} = Literal[", *(f"    {value}," for value in quoted), "]"])


def _either(name: str, types: list[str]) -> str:
    types = list(dict.fromkeys(types))
    joined = " | ".join(types)
    start = f"{name}: TypeAlias ="
    if '"' in joined:
        # A later name is quoted with the whole union, since "|" works only on types.
        joined = joined.replace('"', "")
        return f'{start} "{joined}"'
    if len(start) + len(joined) < _WIDTH:
        return f"{start} {joined}"
    if len(joined) + 4 <= _WIDTH:
        return f"{start} (\n    {joined}\n)"
    return f"{start} (\n    {types[0]}\n" + "".join(f"    | {one}\n" for one in types[1:]) + ")"
