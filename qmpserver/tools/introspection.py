"""What a server tells of its commands by ``query-qmp-schema``: to type, complete and explain them.

It knows nothing of sockets. Type names are the server's and mean nothing but themselves.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BOOLEANS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


class Schema:
    """A server's answer to ``query-qmp-schema``; an empty one knows no types.

    Raises KeyError, TypeError: It is another answer.
    """

    def __init__(self, entries: Sequence[dict[str, Any]] = ()) -> None:
        self._entries = {entry["name"]: entry for entry in entries}
        for entry in entries:
            uses = [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
            if entry["meta-type"] in ("object", "alternate"):
                uses += [
                    one["type"] for key in ("members", "variants") for one in entry.get(key, ())
                ]
            for name in uses:
                self._entries[name]

    def names(self, meta: str) -> list[str]:
        """Names of all commands, or of all events."""
        return sorted(n for n, entry in self._entries.items() if entry["meta-type"] == meta)

    def entry(self, name: str) -> dict[str, Any] | None:
        """The command or event of this name."""
        entry = self._entries.get(name)
        return entry if entry and entry["meta-type"] in ("command", "event") else None

    # -- arguments from the command line

    def arguments(self, command: str, words: Sequence[str]) -> dict[str, Any]:
        """Turn ``key=value`` words into arguments of a command.

        Values are read as their type in the schema. What the schema does not know is JSON where it
        looks like JSON, else a string: to refuse it is up to the server.

        Raises:
            UsageError: Words that can't be meant.
        """
        tree = as_tree(words)
        entry = self.entry(command)
        typed = self._value(tree, entry["arg-type"] if entry else None, "")
        assert isinstance(typed, dict)
        return typed

    def _value(self, given: Any, type_name: str | None, key: str) -> Any:
        entry = self._entries.get(type_name or "", {"meta-type": None})
        kind = entry["meta-type"]
        if kind == "alternate":
            return self._alternate(given, entry, key)
        if isinstance(given, dict):
            untyped = kind is None or entry.get("json-type") == "value"
            numbered = bool(given) and all(name.isdecimal() for name in given)
            if kind == "array" or (untyped and numbered):
                return self._array(given, entry.get("element-type"), key)
            if kind != "object" and not untyped:
                raise UsageError(f"'{key}' is no object: {self.describe(type_name)} is wanted")
            members = self._members(entry, given)
            dot = f"{key}." if key else ""
            return {n: self._value(v, members.get(n), dot + n) for n, v in given.items()}
        if isinstance(given, list):
            if kind != "array" and kind is not None and entry.get("json-type") != "value":
                raise UsageError(f"'{key}' is given more than once")
            element = entry.get("element-type")
            return [self._value(value, element, key) for value in given]
        if kind in ("object", "array"):
            value = _json(given)
            if kind == "array" and not isinstance(value, list):
                return [self._value(given, entry["element-type"], key)]
            if kind == "object" and not isinstance(value, dict):
                raise UsageError(f"'{key}' wants an object: {key}.NAME=VALUE or {key}={{JSON}}")
            return value
        return _scalar(given, "string" if kind == "enum" else entry.get("json-type"), key)

    def _array(self, given: dict[str, Any], element: str | None, key: str) -> list[Any]:
        if sorted(given, key=lambda n: (len(n), n)) != [str(i) for i in range(len(given))]:
            raise UsageError(f"'{key}' is a list: number its elements {key}.0, {key}.1 and so on")
        return [self._value(given[str(i)], element, f"{key}.{i}") for i in range(len(given))]

    def _alternate(self, given: Any, entry: dict[str, Any], key: str) -> Any:
        """Take the branch that the value looks like, a string last."""
        branches = [self._entries[member["type"]] for member in entry["members"]]
        kinds = ("object", "array") if isinstance(given, dict) else ("array",)
        for branch in branches:
            if not isinstance(given, str):
                if branch["meta-type"] in kinds:
                    return self._value(given, branch["name"], key)
            elif _looks_like(given, branch):
                return self._value(given, branch["name"], key)
        return given if isinstance(given, str) else self._value(given, None, key)

    # -- what there is

    def below(self, command: str, path: Sequence[str], given: Any) -> dict[str, str]:
        """What a command's arguments can have at a path, as names and types; elements are numbers.

        `given` is the tree of what is known of the arguments: a union's variants are all there
        unless its tag is given, a list has one element more than is given.
        """
        entry = self.entry(command)
        type_name = entry["arg-type"] if entry else None
        for name in path:
            type_name = self._below(type_name, given).get(name)
            given = given.get(name) if isinstance(given, dict) else None
        return self._below(type_name, given)

    def _below(self, type_name: str | None, given: Any) -> dict[str, str]:
        entry = self._entries.get(type_name or "", {"meta-type": None})
        given = given if isinstance(given, dict) else {}
        members: dict[str, str] = {}
        parts: list[str] = []
        if entry["meta-type"] == "array":
            members = {str(index): entry["element-type"] for index in range(len(given) + 1)}
        elif entry["meta-type"] == "alternate":
            parts = [member["type"] for member in entry["members"]]
        elif entry["meta-type"] == "object":
            tag = given.get(entry.get("tag"))
            members = {m["name"]: m["type"] for m in entry["members"]}
            parts = [v["type"] for v in entry.get("variants", ()) if tag in (None, v["case"])]
        for part in parts:
            members = self._below(part, given) | members
        return members

    def values(self, type_name: str) -> list[str]:
        """All values of an enumeration or a boolean, or of a list's elements; of others none."""
        entry = self._entries[type_name]
        if entry["meta-type"] == "enum":
            return list(entry["values"])
        if entry["meta-type"] == "array":
            return self.values(entry["element-type"])
        if entry["meta-type"] == "alternate":
            return [value for m in entry["members"] for value in self.values(m["type"])]
        return {"boolean": ["true", "false"], "null": ["null"]}.get(entry.get("json-type", ""), [])

    def endings(self, type_name: str) -> set[str]:
        """How a key of the type ends: in ``=`` where it has a value, in ``.`` where it has more."""
        entry = self._entries[type_name]
        if entry["meta-type"] == "array":
            return self.endings(entry["element-type"])
        if entry["meta-type"] == "alternate":
            return set().union(*(self.endings(member["type"]) for member in entry["members"]))
        return {"."} if self._below(type_name, {}) else {"="}

    def is_list(self, type_name: str) -> bool:
        """Whether a key of the type may be given again and again."""
        return bool(self._entries[type_name]["meta-type"] == "array")

    def _members(self, entry: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
        """Types of an object's members, those of the variant that is given too."""
        members = {m["name"]: m["type"] for m in entry.get("members", ())}
        tag = given.get(entry.get("tag", ""))
        for variant in entry.get("variants", ()):
            if variant["case"] == tag:
                members |= self._members(self._entries[variant["type"]], given)
        return members

    # -- in words

    def describe(self, type_name: str | None) -> str:
        """Name a type in a few words."""
        entry = self._entries.get(type_name or "", {"meta-type": None})
        kind = entry["meta-type"]
        if kind == "builtin":
            return {"value": "any value"}.get(entry["json-type"], str(entry["json-type"]))
        if kind == "enum":
            return " | ".join(entry["values"])
        if kind == "array":
            return f"list of {self.describe(entry['element-type'])}"
        if kind == "alternate":
            return " or ".join(self.describe(member["type"]) for member in entry["members"])
        return "object" if kind == "object" else "any value"

    def summary(self, command: str) -> str:
        """Return a command's arguments in one line, optional ones in brackets."""
        entry = self._entries[self._entries[command]["arg-type"]]
        words = [f"[{m['name']}=]" if "default" in m else f"{m['name']}=" for m in entry["members"]]
        return " ".join(words)

    def explain(self, name: str) -> Iterator[str]:
        """Explain a command or event, in lines."""
        entry = self._entries[name]
        notes = list(entry.get("features", ()))
        if entry.get("allow-oob"):
            notes.append("can be executed out of band")
        yield f"{entry['meta-type']} {name}" + (f"  ({', '.join(notes)})" if notes else "")
        lines = list(self._explain_members(entry["arg-type"], 1, ()))
        if lines:
            yield "arguments:" if entry["meta-type"] == "command" else "data:"
            yield from lines
        else:
            yield "no arguments" if entry["meta-type"] == "command" else "no data"
        if "ret-type" in entry:
            returned = list(self._explain_type(entry["ret-type"], 1, ()))
            what = self.describe(entry["ret-type"])
            if what != "object" or returned:
                yield f"returns: {what}"
                yield from returned

    def _explain_type(self, type_name: str, depth: int, above: tuple[str, ...]) -> Iterator[str]:
        """Explain the objects in a type."""
        entry = self._entries[type_name]
        if entry["meta-type"] == "object":
            yield from self._explain_members(type_name, depth, above)
        elif entry["meta-type"] == "array":
            yield from self._explain_type(entry["element-type"], depth, above)
        elif entry["meta-type"] == "alternate":
            for member in entry["members"]:
                yield from self._explain_type(member["type"], depth, above)

    def _explain_members(self, type_name: str, depth: int, above: tuple[str, ...]) -> Iterator[str]:
        entry = self._entries[type_name]
        indent = "  " * depth
        if type_name in above:
            yield f"{indent}(as above)"
            return
        above = (*above, type_name)
        for member in entry.get("members", ()):
            optional = "  (optional)" if "default" in member else ""
            deprecated = "  (deprecated)" if "deprecated" in member.get("features", ()) else ""
            what = self.describe(member["type"])
            yield f"{indent}{member['name']}: {what}{optional}{deprecated}"
            yield from self._explain_type(member["type"], depth + 1, above)
        for variant in entry.get("variants", ()):
            lines = list(self._explain_members(variant["type"], depth + 1, above))
            if lines:
                yield f"{indent}where {entry['tag']} is {variant['case']}:"
                yield from lines


def as_tree(words: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into a tree of texts; raises UsageError."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageError(f"'{word}' is not key=value")
        if any("\ud800" <= char <= "\udfff" for char in word):
            raise UsageError(f"'{key}' is given bytes that are not UTF-8")
        _put(tree, key, value)
    return tree


def _put(tree: dict[str, Any], key: str, value: str) -> None:
    """Store a value under a dotted key; one that is given again makes a list."""
    *above, last = key.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UsageError(f"'{key}' goes below '{name}', which has a value of its own")
    if isinstance(tree.get(last), dict):
        raise UsageError(f"'{key}' has both a value and something below it")
    if last in tree:
        before = tree[last]
        tree[last] = [*(before if isinstance(before, list) else [before]), value]
    else:
        tree[last] = value


def _json(text: str) -> Any:
    """Read JSON; what is none, or too much of it, stays text."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(text: str) -> None:
    raise ValueError(text)  # NaN and the like


def _scalar(text: str, json_type: str | None, key: str) -> Any:
    if json_type == "string":
        return text
    if json_type == "boolean" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if json_type in ("int", "number") and _INTEGER.fullmatch(text):
        return int(text, 16 if "x" in text else 10)
    value = _json(text)
    if json_type in (None, "value"):
        return value
    fits = {
        "number": isinstance(value, float),
        "null": value is None,
        "boolean": False,
        "int": False,
    }
    if not fits.get(json_type, True):
        raise UsageError(f"'{key}={text}': {_WANTED[json_type]} is wanted")
    return value


_INTEGER = re.compile("-?(0x[0-9a-fA-F]{1,40}|[0-9]{1,40})")  # the server knows its own range
_WANTED = {
    "number": "a number",
    "null": "null",
    "boolean": "true or false",
    "int": "an integer",
}


def _looks_like(text: str, branch: dict[str, Any]) -> bool:
    """Whether a text can be a value of a branch of an alternate other than a string."""
    if branch["meta-type"] == "enum":
        return text in branch["values"]
    value = _json(text)
    wanted = {"object": dict, "array": list}.get(branch["meta-type"])
    if wanted:
        return isinstance(value, wanted)
    return {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": text in _BOOLEANS,
        "null": text == "null",
    }.get(branch.get("json-type", ""), False)
