"""Comparing messages with expected ones, in which strings such as "<int>" match many values."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qmpserver.transcript.message import Message

    Matcher = Callable[[Any], bool]

MORE = "..."
"""Stands for any further members of an object or elements of a list."""

_MAX_NESTING = 200  # comparing takes some frames of Python's stack for each level

ALWAYS_IGNORED = frozenset({"timestamp", "thread-id"})


class PatternError(ValueError):
    """An expected value cannot be compared with; the text is one line."""


class Rules(NamedTuple):
    """What may vary in a whole transcript.

    Attributes:
        ignore: Names of members that may have any value or be missing.
        tolerance: Allowed deviation of numbers, by name, as a fraction of the expected number.
        events: Whether events are compared.
        exact: Whether the order of messages and members, and their spelling, are compared too.
    """

    ignore: frozenset[str] = ALWAYS_IGNORED
    tolerance: Mapping[str, float] = {}
    events: bool = True
    exact: bool = False


def compare(expected: Any, got: Any, rules: Rules | None = None) -> list[str]:
    """Return the places where a value differs from the expected one, as text.

    Raises:
        PatternError: An expected string has a regular expression that is not valid.
    """
    return list(_compare(expected, got, rules or Rules(), "", None))


def compare_messages(expected: Message, got: Message, rules: Rules) -> list[str]:
    """Return the places where a message differs from the expected one, as text."""
    if rules.exact:
        return compare_exactly(expected, got, rules)
    if expected.is_json and got.is_json:
        return compare(expected.value, got.value, rules)
    return [] if expected.text == got.text else [f"it is {got.text[:200]}"]


def compare_exactly(expected: Message, got: Message, rules: Rules) -> list[str]:
    """Return the differences as `compare` does, and those in members' order and in spelling."""
    if expected.text == got.text:
        return []
    said = f"it is {got.text[:200]}"
    if not (expected.is_json and got.is_json):
        return [said]
    if different := compare(expected.value, got.value, rules):
        return different
    try:
        kept = _without(got.value, rules.ignore)
        ordered = _ordered(_without(expected.value, rules.ignore), kept)
        in_order = json.dumps(ordered) == json.dumps(kept)
    except RecursionError:
        return [said]
    if not in_order:
        return [f"the members' order: {said}"]
    return [f"the spelling: {said}"] if expected.value == got.value else []


def check_patterns(value: Any) -> None:
    """Raise if an expected value has a pattern that is not valid.

    Raises:
        PatternError: A regular expression is not valid, or the value is nested too deeply.
    """
    left = [(value, 0)]
    while left:
        one, depth = left.pop()
        if isinstance(one, str):
            _matcher(one)
        elif isinstance(one, dict | list):
            if depth >= _MAX_NESTING:
                raise PatternError("values are nested too deeply")
            left += [(item, depth + 1) for item in (one.values() if isinstance(one, dict) else one)]


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    if isinstance(value, dict):
        return {name: _without(item, names) for name, item in value.items() if name not in names}
    return value


def _ordered(model: Any, value: Any) -> Any:
    """Return the value with its members in the model's order."""
    if isinstance(model, dict) and isinstance(value, dict):
        known = {name: _ordered(model[name], value[name]) for name in model if name in value}
        return known | {name: item for name, item in value.items() if name not in known}
    if isinstance(model, list) and isinstance(value, list):
        return [_ordered(*pair) for pair in zip(model, value, strict=False)] + value[len(model) :]
    return value


def _compare(expected: Any, got: Any, rules: Rules, path: str, name: str | None) -> Iterator[str]:
    if isinstance(expected, str) and (matches := _matcher(expected)) is not None:
        if not matches(got):
            yield f"{path or 'answer'}: {_show(got)} is not {expected}"
    elif isinstance(expected, dict) and isinstance(got, dict):
        names = dict.fromkeys([*expected, *(() if MORE in expected else got)])
        for key in names:
            if key == MORE or key in rules.ignore:
                continue
            below = f"{path}.{key}" if path else key
            if key not in got:
                yield f"{below}: missing, {_show(expected[key])} was expected"
            elif key not in expected:
                yield f"{below}: {_show(got[key])} was not expected"
            else:
                yield from _compare(expected[key], got[key], rules, below, key)
    elif isinstance(expected, list) and isinstance(got, list):
        more = bool(expected) and expected[-1] == MORE
        wanted = expected[:-1] if more else expected
        if len(got) < len(wanted) or (len(got) > len(wanted) and not more):
            yield f"{path}: {len(got)} elements instead of {len(wanted)}: {_show(got)}"
            return
        for index, one in enumerate(wanted):
            yield from _compare(one, got[index], rules, f"{path}[{index}]", name)
    elif not _same(expected, got, rules.tolerance.get(name or "", 0.0)):
        yield f"{path or 'answer'}: {_show(got)} instead of {_show(expected)}"


def _same(expected: Any, got: Any, tolerance: float) -> bool:
    if _is_number(expected) and _is_number(got):
        return _near(got, expected, abs(expected), tolerance)
    return type(expected) is type(got) and bool(expected == got)


def _near(got: float, middle: float, scale: float, part: float) -> bool:
    """Return whether a number is within a part of `scale` around another one."""
    try:
        return bool(abs(got - middle) <= scale * part)
    except OverflowError:  # an integer that no float can hold, beside a float
        return got == middle


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 100 else f"{text[:100]}..."


_KINDS: dict[str, Matcher] = {
    "any": lambda _: True,
    "int": lambda got: isinstance(got, int) and not isinstance(got, bool),
    "number": _is_number,
    "string": lambda got: isinstance(got, str),
    "bool": lambda got: isinstance(got, bool),
    "list": lambda got: isinstance(got, list),
    "object": lambda got: isinstance(got, dict),
}
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_RANGE = rf"({_NUMBER})?\.\.({_NUMBER})?"
_NEAR = rf"({_NUMBER}) \+-({_NUMBER})(%?)"


@functools.lru_cache(maxsize=1024)
def _matcher(text: str) -> Matcher | None:
    """Return the function for a string such as "<int>"; None for a string that means itself."""
    if text == MORE:
        return _KINDS["any"]
    if len(text) < 3 or text[0] != "<" or text[-1] != ">":
        return None
    inner = text[1:-1]
    if inner in _KINDS:
        return _KINDS[inner]
    if (found := re.fullmatch(_RANGE, inner)) and inner != "..":
        least, most = float(found[1] or "-inf"), float(found[2] or "inf")
        return lambda got: _is_number(got) and least <= got <= most
    if found := re.fullmatch(_NEAR, inner):
        middle, off = float(found[1]), float(found[2])
        scale = abs(middle) / 100 if found[3] else 1.0
        return lambda got: _is_number(got) and _near(got, middle, scale, off)
    if len(inner) > 2 and inner[0] == inner[-1] == "/":
        try:
            pattern = re.compile(inner[1:-1])
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(f"/{inner[1:-1]}/ is not a regular expression: {error}") from None
        return lambda got: isinstance(got, str) and pattern.search(got) is not None
    if "|" in inner:
        return lambda got: got in inner.split("|")
    return None
