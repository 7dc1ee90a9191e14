"""Conditions, the values of `if`: evaluation, pruning, and their text in a reference."""

from qmpserver.qapi.interface import Command, Named
from qmpserver.qapi.model import (
    EMPTY,
    AlternateType,
    Branch,
    EnumType,
    Feature,
    Member,
    ObjectType,
)


def holds(condition: object, conditions: frozenset[str]) -> bool:
    """Return whether a condition holds, given those that hold; None is no condition."""
    if condition is None:
        return True
    if isinstance(condition, str):
        return condition in conditions
    assert isinstance(condition, dict)
    ((operator, operand),) = condition.items()
    if operator == "not":
        return not holds(operand, conditions)
    parts = (holds(part, conditions) for part in operand)
    return all(parts) if operator == "all" else any(parts)


def prune(entity: Named, conditions: frozenset[str]) -> None:
    """Remove the parts of an entity whose condition does not hold."""

    def members(group: list[Member]) -> list[Member]:
        kept = [member for member in group if holds(member.condition, conditions)]
        for member in kept:
            member.features = features(member.features)
        return kept

    def features(group: list[Feature]) -> list[Feature]:
        return [feature for feature in group if holds(feature.condition, conditions)]

    def branches(group: dict[str, Branch]) -> dict[str, Branch]:
        return {name: one for name, one in group.items() if holds(one.condition, conditions)}

    def whole(group: ObjectType) -> None:
        group.own = members(group.own)
        group.members = members(group.members)
        group.branches = branches(group.branches)
        if group.base is not None and group.base.definition is None:
            whole(group.base)

    entity.features = features(entity.features)
    if isinstance(entity, EnumType):
        entity.values = members(entity.values)
    elif isinstance(entity, ObjectType):
        whole(entity)
    elif isinstance(entity, AlternateType):
        entity.branches = branches(entity.branches)
    else:
        implicit = entity.arguments if isinstance(entity, Command) else entity.data
        if implicit.definition is None and implicit is not EMPTY:
            whole(implicit)


def condition_text(condition: object, inner: bool = False) -> str:
    """Return a condition as text for readers, in Markdown."""
    if isinstance(condition, str):
        return f"`{condition}`"
    assert isinstance(condition, dict)
    ((operator, operand),) = condition.items()
    if operator == "not":
        return f"not {condition_text(operand, inner=True)}"
    word = " and " if operator == "all" else " or "
    text = word.join(condition_text(part, inner=True) for part in operand)
    return f"({text})" if inner and len(operand) > 1 else text
