r"""Values to bytes, as QEMU writes them.

ASCII only (`\u00E9`, in upper case), `", "` and `": "` between items,
members in QEMU's order, doubles with 17 significant digits (`1.0` is `1`).
Most values take a fast path through the standard library's encoder, which
writes all but doubles and escaped characters the same way.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qmpserver.qmp.errors import CommandError, as_text
from qmpserver.qmp.order import member_order
from qmpserver.qmp.text import INVALID_CHARACTER

__all__ = ["dumps", "error_message", "event_message", "return_message"]

_encode = json.JSONEncoder(check_circular=False).encode

_ESCAPED = re.compile('[^ -~]|["\\\\]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_PLAIN = frozenset({str, int, bool, type(None)})

# The order of each set of members seen; None is the order they came in.  Names come
# from the schema, but those of an "id" come from the client: hence the bounds.
_orders: dict[tuple[str, ...], tuple[str, ...] | None] = {}
_MAX_ORDERS = 1024
_MAX_REMEMBERED = 1024  # letters
_MAX_ORDERED_NESTING = 100


class _NotFastError(Exception):
    """The value contains something that only the slow path writes correctly."""


def dumps(value: Any, pretty: bool = False, *, finite: bool = False) -> bytes:
    """Encode a JSON value as QEMU does, without an end of line.

    Args:
        value: Dicts (or other mappings) with string keys, lists or tuples,
            strings, integers, floats, booleans and None.
        pretty: Write one member or element a line, indented by four.
        finite: Refuse infinities and NaN, which JSON does not have. QEMU writes them: a client's
            own `id` may be one.

    Raises:
        TypeError: `value` is or contains something else, or contains itself.
    """
    if not pretty:
        try:
            text = _encode(_ordered(value, 0))
        except (_NotFastError, RecursionError):
            pass
        else:
            if "\\u" not in text and "\x7f" not in text:
                return text.encode("ascii")
    return "".join(_tokens(value, pretty, finite)).encode("ascii")


def return_message(value: Any, has_id: bool, request_id: Any, pretty: bool = False) -> bytes:
    """Encode the reply to a command that succeeded, with its end of line.

    Raises:
        TypeError: `value` is not a JSON value.
    """
    if pretty:
        members = [b'"return": ' + dumps(value, pretty=True, finite=True)]
        if has_id:
            members.append(b'"id": ' + dumps(request_id, pretty=True))
        indented = b",\n".join(members).replace(b"\n", b"\n    ")
        return _line(b"{\n    %b\n}" % indented)
    empty = None if value else _EMPTY.get(type(value))
    encoded = empty or dumps(value, finite=True)
    if has_id:
        return b'{"return": %b, "id": %b}\r\n' % (encoded, dumps(request_id))
    return b'{"return": %b}\r\n' % encoded


def error_message(
    error: CommandError, has_id: bool = False, request_id: Any = None, pretty: bool = False
) -> bytes:
    """Encode the reply to a command that failed, with its end of line."""
    described = {"class": as_text(error.error_class), "desc": as_text(error.desc)}
    message: dict[str, Any] = {"error": described}
    if has_id:
        message["id"] = request_id
    return _line(dumps(message, pretty))


def event_message(
    name: str, data: Mapping[str, Any] | None, seconds: int, microseconds: int, pretty: bool = False
) -> bytes:
    """Encode an event, with its end of line; without the member `data` if `data` is None.

    Raises:
        TypeError: `data` is not a JSON value.
    """
    message: dict[str, Any] = {
        "event": name,
        "timestamp": {"seconds": seconds, "microseconds": microseconds},
    }
    if data is not None:
        message["data"] = data
    return _line(dumps(message, pretty, finite=True))


_EMPTY: dict[type, bytes] = {dict: b"{}", list: b"[]"}


def _line(encoded: bytes) -> bytes:
    return encoded.replace(b"\n", b"\r\n") + b"\r\n"


def _ordered(value: Any, depth: int) -> Any:
    """Return `value` with the members of all objects sorted into QEMU's order."""
    kind = type(value)
    if kind is dict:
        names = tuple(value)
        try:
            order = _orders[names]
        except KeyError:
            order = tuple(member_order(names))
            if order == names:
                order = None
            if sum(map(len, names)) + len(names) <= _MAX_REMEMBERED:
                if len(_orders) >= _MAX_ORDERS:
                    _orders.clear()
                _orders[names] = order
        if order is not None:
            value = {name: value[name] for name in order}
        result = value
        for name, item in value.items():
            if type(item) not in _PLAIN:
                ordered = _ordered(item, depth + 1)
                if ordered is not item:
                    if result is value:
                        result = value.copy()
                    result[name] = ordered
        return result
    if isinstance(value, list | tuple):
        if depth > _MAX_ORDERED_NESTING:
            raise RecursionError
        return [item if type(item) in _PLAIN else _ordered(item, depth + 1) for item in value]
    if isinstance(value, float):
        raise _NotFastError
    if isinstance(value, Mapping):
        return _ordered(dict(value), depth)
    return value


def _string(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    if INVALID_CHARACTER.match(character):
        return "\\uFFFD"
    codepoint = ord(character)
    if codepoint > 0xFFFF:
        codepoint -= 0x10000
        return f"\\u{0xD800 + (codepoint >> 10):04X}\\u{0xDC00 + (codepoint & 0x3FF):04X}"
    return f"\\u{codepoint:04X}"


def _scalar(value: Any, finite: bool) -> str:
    if isinstance(value, str):
        return _string(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if finite and not math.isfinite(value):
            raise TypeError(f"{float(value)} is not JSON serializable")
        return f"{value:.17g}"
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _tokens(value: Any, pretty: bool, finite: bool) -> Iterator[str]:
    """Yield the text of `value` in pieces, without recursion."""
    levels: list[tuple[Iterator[tuple[str, Any]], str, int]] = []
    entered: set[int] = set()
    prefix = ""
    while True:
        children: Iterator[tuple[str, Any]]
        identity = id(value)
        if identity in entered:
            raise TypeError(f"Object of type {type(value).__name__} contains itself")
        if isinstance(value, Mapping):
            children = _members(value)
            yield prefix + "{"
            levels.append((children, "}", identity))
            entered.add(identity)
            first = True
        elif isinstance(value, list | tuple):
            children = zip(itertools.repeat(""), value)
            yield prefix + "["
            levels.append((children, "]", identity))
            entered.add(identity)
            first = True
        else:
            yield prefix + _scalar(value, finite)
            first = False
        while levels:
            children, closing, identity = levels[-1]
            child = next(children, None)
            if child is not None:
                break
            levels.pop()
            entered.discard(identity)
            yield _newline(levels, pretty) + closing
            first = False
        else:
            return
        separator = _newline(levels, pretty)
        if not first:
            separator = "," + (separator or " ")
        prefix, value = separator + child[0], child[1]


def _members(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in member_order(value):
        yield f"{_string(name)}: ", value[name]


def _newline(levels: list[Any], pretty: bool) -> str:
    return "\n" + " " * (4 * len(levels)) if pretty else ""
