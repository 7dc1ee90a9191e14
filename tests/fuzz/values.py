"""Values of QAPI types, and values that are nearly such."""

import random

from qmpserver.qapi.model import AlternateType, ArrayType, EnumType, ObjectType, QType, Type
from tests.fuzz.messages import NUMBERS, TEXTS, json_value

RANGES = {
    "int": (-(1 << 63), (1 << 63) - 1),
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint8": (0, (1 << 8) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
    "size": (0, (1 << 64) - 1),
}


def value_of(type_: Type, rng: random.Random, depth: int = 3) -> object:
    """Make up a value of a type; optional members end where `depth` does.

    Raises:
        RecursionError: The type contains itself without an optional member or an empty array.
    """
    if depth < -20:
        raise RecursionError
    if isinstance(type_, ArrayType):
        count = rng.randrange(3) if depth > 0 else 0
        return [value_of(type_.element, rng, depth - 1) for _ in range(count)]
    if isinstance(type_, EnumType | QType):
        return rng.choice(type_.values).name
    if isinstance(type_, AlternateType):
        return value_of(rng.choice(list(type_.branches.values())).type, rng, depth - 1)
    if isinstance(type_, ObjectType):
        return _object(type_, rng, depth)
    match type_.wire:
        case "string":
            return rng.choice(TEXTS)
        case "number":
            return rng.choice([0, 1.5, -2, 1e300, rng.uniform(-10, 10)])
        case "int":
            least, most = RANGES.get(type_.name, (0, (1 << 63) - 1))
            return rng.choice([0, 1, least, most, rng.randint(least, most), 100 % (most + 1)])
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            return json_value(rng, max(depth, 0))


def _object(type_: ObjectType, rng: random.Random, depth: int) -> dict[str, object]:
    made = {
        member.name: value_of(member.type, rng, depth - 1)
        for member in type_.members
        if not member.optional or (depth > 0 and rng.random() < 0.4)
    }
    if type_.tag is not None:
        case = rng.choice(list(type_.branches))
        made[type_.tag.name] = case
        branch = type_.branches[case].type
        assert isinstance(branch, ObjectType)
        made |= _object(branch, rng, depth)
    return made


def spoilt(value: object, rng: random.Random) -> object:
    """Return a value with something in it changed: another type, a member more or less."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        made = dict(value)
        name = rng.choice(list(made))
        match rng.randrange(4):
            case 0:
                del made[name]
            case 1:
                made[rng.choice(TEXTS)] = json_value(rng, 1)
            case _:
                made[name] = spoilt(made[name], rng)
        return made
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        return [*value[:index], spoilt(value[index], rng), *value[index + 1 :]]
    return rng.choice([json_value(rng, 2), rng.choice(NUMBERS), rng.choice(TEXTS)])
