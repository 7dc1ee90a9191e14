"""The syntax of a definition: its keys, their values, and the names in it.

Each rule here applies to one expression alone; `resolve` checks the rules about references. The
check also expands shorthands in place: a member becomes `{'type': ...}`, an enum value or a feature
becomes `{'name': ...}`.
"""

import re
from collections.abc import Callable, Iterable

from qmpserver.qapi.model import Definition
from qmpserver.qapi.source import Location

Object = dict[str, object]

_NAME = re.compile(r"(?:__[a-z0-9.-]+_)?(?:x-)?([a-z][a-z0-9_-]*)", re.IGNORECASE | re.ASCII)
_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
_CONDITION = re.compile(r"[A-Z][A-Z0-9_]*")

_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    kind: (frozenset(required.split()) | {kind}, frozenset(optional.split()) | {"if", "features"})
    for kind, required, optional in (
        ("enum", "data", "prefix"),
        ("struct", "data", "base"),
        ("union", "base discriminator data", ""),
        ("alternate", "data", ""),
        (
            "command",
            "",
            "data returns boxed gen success-response allow-oob allow-preconfig coroutine",
        ),
        ("event", "", "data boxed"),
    )
}
# A flag departs from a default, so only one value is allowed.
_FLAGS = {
    "gen": False,
    "success-response": False,
    "boxed": True,
    "allow-oob": True,
    "allow-preconfig": True,
    "coroutine": True,
}
_MEMBER_KEYS = (frozenset({"type"}), frozenset({"if", "features"}))
_BRANCH_KEYS = (frozenset({"type"}), frozenset({"if"}))
_VALUE_KEYS = (frozenset({"name"}), frozenset({"if", "features"}))
_FEATURE_KEYS = (frozenset({"name"}), frozenset({"if"}))


def flat(name: str) -> str:
    """Return the C identifier of a name; two names whose identifiers are equal clash."""
    return name.replace("-", "_").replace(".", "_")


def check(definition: Definition) -> tuple[str, str]:
    """Check one definition and expand its shorthands in place.

    Returns:
        Its kind (`enum`, `command`, ...) and its name.

    Raises:
        SchemaError: The definition breaks a rule of the language.
    """
    value, location, doc = definition
    kinds = _KEYS.keys() & value.keys()
    if len(kinds) != 1:
        raise location.error(
            "a definition must have exactly one of the keys " + _quoted(_KEYS, sort=False)
        )
    kind = kinds.pop()
    name = value[kind]
    if not isinstance(name, str):
        raise location.error(f"value of '{kind}' must be a string, its name")
    _definition_name(kind, name, location)
    if doc is not None:
        if doc.symbol != name:
            raise location.error(f"the documentation before '{name}' is of '{doc.symbol}'")
        if doc.has("Returns") and kind != "command":
            raise doc.location.error("only a command can have a section 'Returns'")
    elif location.pragmas.doc_required:
        raise location.error(f"{kind} '{name}' must have a documentation comment")
    what = f"{kind} '{name}'"
    _keys(value, *_KEYS[kind], location, what)
    for key, meant in _FLAGS.items():
        if key in value and value[key] is not meant:
            raise location.error(f"'{key}' can only be {str(meant).lower()} in {what}")
    _CHECKS[kind](value, name, location)
    _condition(value, location, what)
    _features(value, location, what)
    return kind, name


def _enum(value: Object, name: str, location: Location) -> None:
    if not isinstance(value.get("prefix", ""), str):
        raise location.error("'prefix' must be a string")
    data = value["data"]
    if not isinstance(data, list):
        raise location.error("'data' of an enum must be an array")
    data[:] = [member if isinstance(member, dict) else {"name": member} for member in data]
    lax = name in location.pragmas.member_names
    for member in data:
        _keys(member, *_VALUE_KEYS, location, "value of an enum")
        value_name = member["name"]
        if not isinstance(value_name, str):
            raise location.error("a value of an enum must have a string as its name")
        what = f"value '{value_name}'"
        # Only the name of an enum value may start with a digit.
        stem = "d" + value_name if value_name[:1].isdigit() else value_name
        _lower(stem, location, what, lax, lax)
        _condition(member, location, what)
        _features(member, location, what)


def _struct(value: Object, name: str, location: Location) -> None:
    if not isinstance(value["data"], dict):
        raise location.error("'data' of a struct must be an object")
    _members(value["data"], location, name in location.pragmas.member_names)
    if "base" in value:
        _type_name(value["base"], location, "'base'")


def _union(value: Object, name: str, location: Location) -> None:
    base = value["base"]
    if isinstance(base, dict):
        _members(base, location, name in location.pragmas.member_names)
    else:
        _type_name(base, location, "'base'", "an object or ")
    if not isinstance(value["discriminator"], str):
        raise location.error("'discriminator' must be a string")
    _branches(value["data"], location, "a union", array=False)


def _alternate(value: Object, _name: str, location: Location) -> None:
    if not value["data"]:
        raise location.error("an alternate must have at least one branch")
    for branch in _branches(value["data"], location, "an alternate", array=True):
        _lower(branch, location, f"branch '{branch}'")


def _command(value: Object, _name: str, location: Location) -> None:
    _data(value, location)
    if "returns" in value:
        _type_reference(value["returns"], location, "'returns'")
    if "allow-oob" in value and "coroutine" in value:
        raise location.error("'allow-oob' and 'coroutine' exclude each other")


def _event(value: Object, _name: str, location: Location) -> None:
    _data(value, location)


_CHECKS: dict[str, Callable[[Object, str, Location], None]] = {
    "enum": _enum,
    "struct": _struct,
    "union": _union,
    "alternate": _alternate,
    "command": _command,
    "event": _event,
}


def _data(value: Object, location: Location) -> None:
    boxed = "boxed" in value
    if "data" not in value:
        if boxed:
            raise location.error("'boxed' needs 'data'")
        return
    data = value["data"]
    if isinstance(data, dict) and not boxed:
        _members(data, location, lax=False)
    else:
        _type_name(data, location, "'data'", "" if boxed else "an object or ")


def _members(data: Object, location: Location, lax: bool) -> None:
    for key, member in data.items():
        name = key.removeprefix("*")
        what = f"member '{name}'"
        _lower(name, location, what, lax, lax)
        if flat(name) == "u" or flat(name).startswith("has_"):
            raise location.error(f"name of {what} is reserved")
        if not isinstance(member, dict):
            member = data[key] = {"type": member}
        _keys(member, *_MEMBER_KEYS, location, what)
        _condition(member, location, what)
        _features(member, location, what)
        _type_reference(member["type"], location, what)


def _branches(data: object, location: Location, owner: str, array: bool) -> Iterable[str]:
    if not isinstance(data, dict):
        raise location.error(f"'data' of {owner} must be an object")
    for name, branch in data.items():
        what = f"branch '{name}'"
        if not isinstance(branch, dict):
            branch = data[name] = {"type": branch}
        _keys(branch, *_BRANCH_KEYS, location, what)
        _condition(branch, location, what)
        (_type_reference if array else _type_name)(branch["type"], location, what)
    return data


def _features(value: Object, location: Location, owner: str) -> None:
    features = value.get("features", [])
    if not isinstance(features, list):
        raise location.error(f"'features' of {owner} must be an array")
    features[:] = [entry if isinstance(entry, dict) else {"name": entry} for entry in features]
    seen: set[str] = set()
    for feature in features:
        _keys(feature, *_FEATURE_KEYS, location, f"feature of {owner}")
        name = feature["name"]
        if not isinstance(name, str):
            raise location.error(f"a feature of {owner} must have a string as its name")
        what = f"feature '{name}' of {owner}"
        _lower(name, location, what)
        if flat(name) in seen:
            raise location.error(f"{what} appears twice")
        seen.add(flat(name))
        _condition(feature, location, what)


def _condition(value: Object, location: Location, owner: str) -> None:
    if "if" not in value:
        return
    pending = [value["if"]]
    while pending:
        condition = pending.pop()
        if isinstance(condition, str):
            if not _CONDITION.fullmatch(condition):
                raise location.error(
                    f"'if' of {owner}: '{condition}' is not the name of a condition"
                )
        elif isinstance(condition, dict):
            _keys(condition, frozenset(), frozenset({"all", "any", "not"}), location,
                  f"'if' of {owner}")  # fmt: skip
            if len(condition) != 1:
                raise location.error(f"an object in 'if' of {owner} must have exactly one key")
            ((operator, operand),) = condition.items()
            if operator == "not":
                pending.append(operand)
            elif not isinstance(operand, list) or not operand:
                raise location.error(f"'{operator}' in 'if' of {owner} must be a non-empty array")
            else:
                pending.extend(operand)
        else:
            raise location.error(f"'if' of {owner} must be a string or an object")


def _keys(
    value: Object,
    required: frozenset[str],
    optional: frozenset[str],
    location: Location,
    what: str,
) -> None:
    present = value.keys()
    if not required <= present:
        raise location.error(f"{what} lacks {_quoted(required - present)}")
    if unknown := present - required - optional:
        raise location.error(
            f"{what} cannot have {_quoted(unknown)}, only {_quoted(required | optional)}"
        )


def _quoted(words: Iterable[str], sort: bool = True) -> str:
    return ", ".join(f"'{word}'" for word in (sorted(words) if sort else words))


def _type_name(value: object, location: Location, what: str, other: str = "") -> None:
    if not isinstance(value, str):
        raise location.error(f"{what} must be {other}the name of a type")


def _type_reference(value: object, location: Location, what: str) -> None:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise location.error(f"{what}: an array type is the name of one type in brackets")
    else:
        _type_name(value, location, what, "an array type or ")


def _stem(name: str, location: Location, what: str) -> str:
    match = _NAME.fullmatch(name)
    # QEMU reserves "q_" for generated names.
    if match is None or flat(name).startswith("q_"):
        raise location.error(f"{what} has an invalid name")
    return match[1]


def _lower(
    name: str, location: Location, what: str, capitals: bool = False, underscores: bool = False
) -> None:
    stem = _stem(name, location, what)
    if (not capitals and stem.lower() != stem) or (not underscores and "_" in stem):
        raise location.error(f"name of {what} must have neither upper-case letters nor '_'")


def _definition_name(kind: str, name: str, location: Location) -> None:
    what = f"{kind} '{name}'"
    if kind == "event":
        stem = _stem(name, location, what)
        if stem.upper() != stem or "-" in stem:
            raise location.error(f"name of {what} must have neither lower-case letters nor '-'")
    elif kind == "command":
        _lower(name, location, what, underscores=name in location.pragmas.command_names)
    else:
        if not _CAMEL.fullmatch(_stem(name, location, what)):
            raise location.error(f"name of {what} must be in CamelCase")
        if name.endswith("List"):
            raise location.error(
                f"name of {what} must not end in 'List', which is reserved for arrays"
            )
