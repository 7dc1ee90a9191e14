"""A reference of the schema in Markdown, generated from its documentation comments."""

import re
from collections.abc import Iterable, Iterator

from qmpserver.qapi.conditions import condition_text
from qmpserver.qapi.doc import Doc, Section
from qmpserver.qapi.interface import Command, Named
from qmpserver.qapi.model import (
    EMPTY,
    AlternateType,
    ArrayType,
    EnumType,
    Feature,
    Member,
    ObjectType,
    Type,
)
from qmpserver.qapi.schema import Schema

_NAME = re.compile(r"(?<![\w`@])@((?:__[a-z0-9.-]+_)?[A-Za-z][\w-]*)")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
_HEADING = re.compile(r"(=+) +(.*)")


def markdown(schema: Schema, title: str) -> str:
    """Return the reference, with this title."""
    return "\n".join(_Writer(schema).write(title)).rstrip() + "\n"


def first_sentence(doc: Doc | None) -> str:
    """Return the first sentence of a description, on one line; "" if there is no description."""
    paragraph = " ".join(doc.body.text.split("\n\n")[0].split()) if doc else ""
    match = re.match(r".*?\.(?= |$)", paragraph)
    return match[0] if match else paragraph


class _Writer:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._known = schema.commands.keys() | schema.events.keys() | schema.types.keys()

    def write(self, title: str) -> Iterator[str]:
        yield f"# {title}"
        yield ""
        for heading, names in (
            ("Commands", self._schema.commands),
            ("Events", self._schema.events),
        ):
            if names:
                yield f"{heading}: " + ", ".join(self._link(name) for name in sorted(names)) + "."
                yield ""
        for entry in self._schema.sequence:
            if isinstance(entry, Doc):
                yield from self._free(entry)
            else:
                yield from self._entity(entry)

    def _free(self, doc: Doc) -> Iterator[str]:
        text = doc.body.text
        if match := _HEADING.match(text):
            yield f"{'#' * (len(match[1]) + 1)} {match[2].strip()}"
            yield ""
            text = text[match.end() :].strip()
        if text:
            yield self._text(text)
            yield ""

    def _entity(self, entity: Named) -> Iterator[str]:
        yield f'<a id="{entity.name}"></a>'
        yield ""
        yield f"#### `{entity.name}` ({entity.kind})"
        yield ""
        doc = entity.doc
        if doc and doc.body.text:
            yield self._text(doc.body.text)
            yield ""
        yield from self._parts(entity, doc)
        if isinstance(entity, Command) and entity.returns is not None:
            texts = [one.text for one in doc.sections if one.tag == "Returns"] if doc else []
            yield ": ".join([f"Returns {self._type(entity.returns)}", *map(self._text, texts)])
            yield ""
        yield from self._features(entity.features, doc)
        if flags := ", ".join(_flags(entity)):
            yield f"{flags[0].upper()}{flags[1:]}."
            yield ""
        for section in doc.sections if doc else ():
            if section.tag not in ("Returns", "TODO"):
                yield from self._section(section)

    def _parts(self, entity: Named, doc: Doc | None) -> Iterator[str]:
        described = doc.members if doc else {}
        if isinstance(entity, EnumType):
            yield from self._list("Values", (self._value(one, described) for one in entity.values))
        elif isinstance(entity, AlternateType):
            branches = (
                f"{self._type(branch.type)}{_condition(branch.condition)}"
                f"{self._description(branch.name, described)}"
                for branch in entity.branches.values()
            )
            yield from self._list("One of", branches)
        elif isinstance(entity, ObjectType):
            yield from self._object(entity, "Members", described)
        else:
            data = entity.arguments if isinstance(entity, Command) else entity.data
            what = "Arguments" if isinstance(entity, Command) else "Data"
            if data.definition is not None:
                yield f"{what}: the members of {self._type(data)}."
                yield ""
            elif data is not EMPTY:
                yield from self._object(data, what, described)

    def _object(self, type_: ObjectType, what: str, described: dict[str, Section]) -> Iterator[str]:
        if type_.base is not None and type_.base.definition is not None:
            what = f"{what}, besides those of {self._type(type_.base)}"
        yield from self._list(what, (self._member(member, described) for member in type_.listed))
        if type_.tag is not None:
            added = (
                f"`{branch.name}`: the members of {self._type(branch.type)}"
                f"{_condition(branch.condition)}"
                for branch in type_.branches.values()
                if branch.type is not EMPTY
            )
            yield from self._list(f"Depending on `{type_.tag.name}`", added)

    def _list(self, heading: str, items: Iterable[str]) -> Iterator[str]:
        lines = [f"- {item}" for item in items]
        if lines:
            yield f"{heading}:"
            yield ""
            yield from lines
            yield ""

    def _member(self, member: Member, described: dict[str, Section]) -> str:
        optional = ", optional" if member.optional else ""
        return (
            f"`{member.name}` ({self._type(member.type)}{optional}){_condition(member.condition)}"
            f"{_marks(member)}{self._description(member.name, described)}"
        )

    def _value(self, value: Member, described: dict[str, Section]) -> str:
        return (
            f"`{value.name}`{_condition(value.condition)}{_marks(value)}"
            f"{self._description(value.name, described)}"
        )

    def _description(self, name: str, described: dict[str, Section]) -> str:
        section = described.get(name)
        if section is None or not section.text:
            return ""
        return ": " + re.sub(r"\n(?=[^\n])", "\n  ", self._text(section.text))

    def _features(self, features: list[Feature], doc: Doc | None) -> Iterator[str]:
        described = dict(doc.features) if doc else {}
        # The documentation lists features of members with the definition's own.
        names = {str(feature): _condition(feature.condition) for feature in features}
        for name in described:
            names.setdefault(name, "")
        items = (
            f"`{name}`{when}{self._description(name, described)}" for name, when in names.items()
        )
        yield from self._list("Features", items)

    def _section(self, section: Section) -> Iterator[str]:
        if section.tag in ("Example", "Examples"):
            yield f"{section.tag}:"
            yield ""
            yield f"```\n{section.text}\n```"
        elif section.tag is None:
            yield self._text(section.text)
        else:
            yield f"{section.tag}: {self._text(section.text)}"
        yield ""

    def _type(self, type_: Type) -> str:
        if isinstance(type_, ArrayType):
            return f"array of {self._type(type_.element)}"
        return self._link(type_.name)

    def _link(self, name: str) -> str:
        return f"[`{name}`](#{name})" if name in self._known else f"`{name}`"

    def _text(self, text: str) -> str:
        # Names in literals do not become links.
        parts = _LITERAL.split(text)
        for index, part in enumerate(parts):
            if index % 2:
                parts[index] = f"`{part}`"
            else:
                parts[index] = _NAME.sub(lambda match: self._link(match[1]), part)
        return "".join(parts)


def _flags(entity: Named) -> Iterator[str]:
    if entity.condition is not None:
        yield f"only with {condition_text(entity.condition)}"
    if isinstance(entity, Command):
        if entity.allow_oob:
            yield "can be given out of band"
        if entity.allow_preconfig:
            yield "can be given before the machine is built"
        if not entity.success_response:
            yield "sends no reply on success"


def _marks(member: Member) -> str:
    names = [f"*{feature}*" for feature in member.features]
    return f" ({', '.join(names)})" if names else ""


def _condition(condition: object) -> str:
    return "" if condition is None else f" (only with {condition_text(condition)})"
