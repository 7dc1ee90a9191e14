"""Schemas, and values for their commands.

A schema made by the rules is accepted, introspects, and loads again from its introspection as the
same; reference and Python types can be made of it. One that breaks a rule is refused with the line.
A value of a type is accepted unchanged; a spoilt one is accepted or refused, by the schema and by
its introspection alike, and one that was accepted is accepted again. Both are checked in steps with
the same outcome.
"""

import contextlib
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from qmpserver.qapi import Command, ParameterError, ResultError, Schema, SchemaError
from qmpserver.qapi.markdown import markdown
from qmpserver.qapi.steps import LONG, check_in_steps
from qmpserver.qapi.typed import python_types
from qmpserver.qmp import LongString, Parser
from tests.fuzz.explore import Case
from tests.fuzz.values import RANGES, spoilt, value_of
from tests.qmp.test_large import everything_is_large

OWN = Path(__file__).parents[2] / "schema"
ROOT = Path("root.json")
VALUES = 20  # of each command
VALUES_IN_STEPS = 5
LONGEST_NAME = 100  # names that a schema has are never long
SHOWN = re.compile(r"[^\n:]+\.json:([0-9]+): [^\n]+")
BUILTIN = [*RANGES, "str", "number", "bool", "any", "null"]
WORDS = ["alpha", "beta-2", "x-gamma", "delta", "__org.example_eps", "zeta", "type", "class", "if"]
TOKENS = ["{", "}", "[", "]", ":", ",", "'", "##", "# @x:", "true", "false", "\\", "\n", "'if'",
          "'data'", "'base'", "'include'", "'pragma'", "\u00e9", "\t", "'discriminator'", "*", "{}",
          "'root.json'", "'Type0'", "'List'", "# comment\n"]  # fmt: skip


class Maker:
    """Makes the text of a schema by the rules; `kinds` are the types so far, by name."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kinds: dict[str, str] = {}
        self._enums: dict[str, list[str]] = {}
        self._members: dict[str, list[str]] = {}
        self._parts: list[str] = []

    def text(self) -> str:
        """Return the text of a whole schema."""
        rng = self._rng
        for number in range(rng.randint(1, 10)):
            rng.choice([self._enum, self._struct, self._struct, self._union, self._alternate])(
                f"Type{number}x"
            )
        for number in range(rng.randint(1, 6)):
            self._parts.append(self._command(f"command-{number}"))
        for number in range(rng.randrange(4)):
            self._parts.append(self._event(f"EVENT_{number}"))
        return rng.choice(["\n", " ", "\n\n# plain comment\n"]).join(self._parts) + "\n"

    def _extras(self) -> str:
        extras = ""
        if self._rng.random() < 0.2:
            extras += f", 'features': [ {self._rng.choice(['', chr(39) + 'fast' + chr(39)])} ]"
        if self._rng.random() < 0.2:
            extras += f", 'if': {self._condition()}"
        return extras

    def _condition(self, depth: int = 2) -> str:
        rng = self._rng
        match rng.randrange(4 if depth else 1):
            case 1:
                return f"{{ 'not': {self._condition(depth - 1)} }}"
            case 2 | 3:
                inner = [self._condition(depth - 1) for _ in range(rng.randint(1, 3))]
                return f"{{ '{rng.choice(['all', 'any'])}': [ {', '.join(inner)} ] }}"
            case _:
                return f"'{rng.choice(['ON', 'OFF', 'SOME_2'])}'"

    def _names(self, most: int, prefix: str = "") -> list[str]:
        rng = self._rng
        names = rng.sample(WORDS, rng.randrange(min(most, len(WORDS)) + 1))
        return [f"{prefix}{name}" if prefix and name[:2] not in ("x-", "__") else name
                for name in names]  # fmt: skip

    def _enum(self, name: str) -> None:
        values = self._names(5) or ["only"]
        listed = ", ".join(
            f"{{ 'name': '{one}', 'features': [ 'old' ] }}" if self._rng.random() < 0.2
            else f"'{one}'"
            for one in values
        )  # fmt: skip
        # A condition would remove the type from under its users.
        self._parts.append(f"{{ 'enum': '{name}', 'data': [ {listed} ] }}")
        self._kinds[name] = "enum"
        self._enums[name] = values

    def _type(self, *, recursive: str | None = None) -> str:
        rng = self._rng
        names = [*BUILTIN, *self._kinds, *self._kinds]
        if recursive is not None:
            names += [recursive] * 3
        name = rng.choice(names)
        return f"[ '{name}' ]" if rng.random() < 0.25 else f"'{name}'"

    def _list(self, names: list[str], owner: str | None = None) -> str:
        listed = []
        for name in names:
            optional = self._rng.random() < 0.5
            type_ = self._type(recursive=owner if optional else None)
            if self._rng.random() < 0.15:
                type_ = f"{{ 'type': {type_}, 'features': [ 'fast' ] }}"
            elif self._rng.random() < 0.1 and optional:
                type_ = f"{{ 'type': {type_}, 'if': {self._condition()} }}"
            listed.append(f"'{'*' * optional}{name}': {type_}")
        return f"{{ {', '.join(listed)} }}"

    def _struct(self, name: str) -> None:
        rng = self._rng
        # Members of a base and of its heirs must differ.
        prefix = f"m{len(self._kinds)}-"
        members = [one if one.startswith(prefix) else f"{prefix}{number}"
                   for number, one in enumerate(self._names(5, prefix))]  # fmt: skip
        base, inherited = "", list[str]()
        structs = [one for one, kind in self._kinds.items() if kind == "struct"]
        if structs and rng.random() < 0.3:
            parent = rng.choice(structs)
            base, inherited = f"'base': '{parent}', ", self._members[parent]
        self._parts.append(f"{{ 'struct': '{name}', {base}'data': {self._list(members, name)} }}")
        self._kinds[name] = "struct"
        self._members[name] = [*inherited, *members]

    def _union(self, name: str) -> None:
        rng = self._rng
        enums, structs = list(self._enums), [o for o, k in self._kinds.items() if k == "struct"]
        if not enums:
            self._enum(name)
            return
        enum = rng.choice(enums)
        tag = f"t{len(self._kinds)}-tag"
        cases = [one for one in self._enums[enum] if structs and rng.random() < 0.6]
        branches = ", ".join(f"'{one}': '{rng.choice(structs)}'" for one in cases)
        self._parts.append(
            f"{{ 'union': '{name}', 'base': {{ '{tag}': '{enum}', '*{tag}-more': {self._type()} }},"
            f" 'discriminator': '{tag}', 'data': {{ {branches} }} }}"
        )
        self._kinds[name] = "union"

    def _alternate(self, name: str) -> None:
        rng = self._rng
        choices = {
            "a-list": "[ 'int' ]",
            "b-null": "'null'",
            "c-number": "'int'",
            "d-bool": "'bool'",
        }
        objects = [one for one, kind in self._kinds.items() if kind in ("struct", "union")]
        if objects:
            choices["e-object"] = f"'{rng.choice(objects)}'"
        if rng.random() < 0.3:  # a string excludes numbers and booleans
            choices = {one: two for one, two in choices.items() if one[0] not in "cd"}
            choices["f-string"] = "'str'"
        kept = rng.sample(sorted(choices), rng.randint(1, len(choices)))
        data = ", ".join(f"'{one}': {choices[one]}" for one in kept)
        self._parts.append(f"{{ 'alternate': '{name}', 'data': {{ {data} }} }}")
        self._kinds[name] = "alternate"

    def _data(self) -> str:
        rng = self._rng
        objects = [one for one, kind in self._kinds.items() if kind in ("struct", "union")]
        match rng.randrange(3):
            case 0:
                return ""
            case 1 if objects:
                return f", 'data': '{rng.choice(objects)}', 'boxed': true"
            case _:
                return f", 'data': {self._list([f'arg-{n}' for n in range(rng.randrange(5))])}"

    def _command(self, name: str) -> str:
        rng = self._rng
        text = f"{{ 'command': '{name}'{self._data()}"
        objects = [one for one, kind in self._kinds.items() if kind in ("struct", "union")]
        if objects and rng.random() < 0.5:
            returned = rng.choice(objects)
            text += rng.choice([f", 'returns': '{returned}'", f", 'returns': [ '{returned}' ]"])
        for flag in ("'allow-oob': true", "'allow-preconfig': true", "'success-response': false"):
            if rng.random() < 0.1:
                text += f", {flag}"
        return f"{text}{self._extras()} }}"

    def _event(self, name: str) -> str:
        return f"{{ 'event': '{name}'{self._data()}{self._extras()} }}"


def break_text(rng: random.Random, text: str) -> str:
    """Change a few places of a schema's text."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(text))
        match rng.randrange(4):
            case 0:
                text = text[:start] + rng.choice(TOKENS) + text[start:]
            case 1:
                text = text[:start] + text[start + rng.randint(1, 12) :]
            case 2:
                end = rng.randint(start, min(len(text), start + 60))
                text = text[:start] + text[start:end] * 2 + text[end:]
            case _:
                words = re.findall(r"'[^'\n]*'", text)
                if words:
                    one, other = rng.choice(words), rng.choice(words)
                    text = text.replace(one, other, rng.choice([1, -1]))
    return text


def check_refusal(error: SchemaError, lines: int) -> None:
    """Check that an error names a line that exists, in one line."""
    shown = SHOWN.fullmatch(str(error))
    assert shown, str(error)
    assert 1 <= int(shown[1]) <= lines + 1, str(error)


def check_schema(schema: Schema, rng: random.Random) -> Schema:
    """Check what can be made of a schema; return it as loaded from its introspection."""
    infos = schema.introspect()
    again = Schema.from_introspection(infos)
    assert list(again.commands) == list(schema.commands)
    assert list(again.events) == list(schema.events)
    again._introspection = None
    assert again.introspect() == infos
    if rng.random() < 0.1:
        markdown(schema, "Title")
        compile(python_types(schema, "root.json"), "types", "exec")
    return again


def check_values(schema: Schema, again: Schema, names: list[str], rng: random.Random) -> int:
    """Check values of the arguments and results of commands, and of events; return how many."""
    count = 0
    for name in names:
        command, introspected = schema.commands[name], again.commands[name]
        for _ in range(VALUES):
            given = value_of(command.arguments, rng)
            assert isinstance(given, dict)
            taken = command.validate(given)
            assert taken == given, (name, given, taken)
            introspected.validate(given)
            other = spoilt(given, rng)
            if isinstance(other, dict):
                check_spoilt(command, introspected, other)
                count += 1
            if command.returns is not None:
                result = value_of(command.returns, rng)
                command.validate_result(result)
                with contextlib.suppress(ResultError):
                    command.validate_result(spoilt(result, rng))
                count += 2
            count += 1
        count += check_steps(command, rng)
    for event in schema.events.values():
        data = value_of(event.data, rng)
        event.validate(data)
        with contextlib.suppress(ResultError):
            event.validate(spoilt(data, rng))
        count += 2
    return count


def check_spoilt(command: Command, introspected: Command, given: dict[str, object]) -> None:
    """Check that arguments are refused with a line, or taken, and taken again."""
    try:
        taken = command.validate(given)
    except ParameterError as error:
        assert error.desc  # noqa: PT017 -- either is right; nothing else may be raised
    else:
        assert command.validate(taken) == taken
        introspected.validate(given)


def check_steps(command: Command, rng: random.Random) -> int:
    """Check arguments in steps and at once; return how many."""
    with everything_is_large(_LONG_TOKEN=LONGEST_NAME):
        for _ in range(VALUES_IN_STEPS):
            given = value_of(command.arguments, rng)
            text = json.dumps(spoilt(given, rng) if rng.random() < 0.8 else given)
            (large,) = Parser(fast=False).feed(b'{"a": %b}' % text.encode())
            (_, node), *_ = large.members()
            if node.value is dict:
                at_once = _refusal(lambda: command.validate(node.built()))  # noqa: B023
                in_steps = _refusal(lambda: list(check_in_steps(command.arguments, node)))  # noqa: B023
                assert in_steps == at_once, (command.name, text)
    return VALUES_IN_STEPS


def _refusal(check: Callable[[], object]) -> str | None:
    """Return the text of the error, if there is one, with a long string in it."""
    try:
        check()
    except ParameterError as error:
        long = error.long
        return error.desc.replace(LONG, long.whole() if isinstance(long, LongString) else str(long))
    return None


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """Each case is a schema and values for it."""
    own = Schema.load(OWN / "qapi-schema.json")
    own_again = Schema.from_introspection(own.introspect())
    real = "\n".join(path.read_text() for path in sorted(OWN.glob("*.json")))

    def case(rng: random.Random) -> int:
        if rng.random() < 0.3:
            return check_values(own, own_again, rng.sample(list(own.commands), 5), rng)
        text = Maker(rng).text()
        whole = rng.random() < 0.6
        if not whole:
            if rng.random() < 0.3:
                start = rng.randrange(len(real))
                text = real[start : start + rng.randint(1, 2000)]
            text = break_text(rng, text)
        ROOT.write_text(text, errors="surrogateescape")
        conditions = rng.choice([None, (), ("ON",), ("ON", "SOME_2")])
        try:
            schema = Schema.load(ROOT, conditions)
        except SchemaError as error:
            assert not whole, f"{error}\n{text}"  # noqa: PT017
            check_refusal(error, text.count("\n") + 1)
            return 1
        again = check_schema(schema, rng)
        try:
            return 1 + check_values(schema, again, list(schema.commands), rng)
        except RecursionError:
            assert not whole  # a broken text may have a type that contains itself
            return 1

    yield case
