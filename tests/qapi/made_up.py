"""Arguments that fit a type, and spoilt ones."""

import random
from collections.abc import Iterator
from typing import Any

from qmpserver.qapi import Command, ParameterError
from qmpserver.qapi.model import AlternateType, ArrayType, EnumType, ObjectType, QType, Type


def refusal(command: Command, arguments: dict[str, object]) -> str | None:
    try:
        command.validate(arguments)
    except ParameterError as error:
        return error.desc
    return None


class Maker:
    """Makes arguments that fit a type, and spoils them in one place."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def spoilt(self, type_: Type) -> dict[str, object]:
        value = self.value(type_, 0)
        assert isinstance(value, dict)
        places = list(self._places(value))
        owner = self._chance.choice(places)
        if isinstance(owner, list):
            owner[self._chance.randrange(len(owner))] = self._anything()
            return value
        names = list(owner)
        how = self._chance.randrange(4) if names else 0
        if how == 0:
            owner["no-such-thing"] = 1
        elif how == 1:
            del owner[self._chance.choice(names)]
        else:
            owner[self._chance.choice(names)] = self._anything()
        return value

    def _places(self, value: object) -> Iterator[Any]:
        if isinstance(value, dict):
            yield value
            for item in value.values():
                yield from self._places(item)
        elif isinstance(value, list) and value:
            yield value
            for item in value:
                yield from self._places(item)

    def _anything(self) -> object:
        return self._chance.choice(
            [None, True, 1.5, -1, 300, 70000, 1 << 32, 1 << 63, (1 << 64) - 1, -(1 << 63), "", "on",
             "bad value", [], [1], {}, {"driver": 1}, {"type": "x"}]
        )  # fmt: skip

    def value(self, type_: Type, depth: int) -> object:
        if isinstance(type_, EnumType | QType):
            return self._chance.choice(type_.values).name
        if isinstance(type_, ArrayType):
            count = self._chance.randrange(3) if depth < 4 else 0
            return [self.value(type_.element, depth + 1) for _ in range(count)]
        if isinstance(type_, AlternateType):
            branches = list(type_.branches.values())
            if depth > 3:
                branches = [one for one in branches if one.type.wire != "object"] or branches
            return self.value(self._chance.choice(branches).type, depth + 1)
        if isinstance(type_, ObjectType):
            return self._object(type_, depth)
        return {
            "string": "text",
            "number": 0.5,
            "int": 7,
            "boolean": False,
            "null": None,
            "value": "anything",
        }[type_.wire]

    def _object(self, type_: ObjectType, depth: int) -> dict[str, object]:
        made: dict[str, object] = {}
        members = list(type_.members)
        for member in members:
            if not member.optional or (depth < 4 and self._chance.random() < 0.3):
                made[member.name] = self.value(member.type, depth + 1)
        if type_.tag is not None:
            branch = type_.branches[str(made[type_.tag.name])].type
            made.update(self.value(branch, depth))  # type: ignore[call-overload]
        return made
