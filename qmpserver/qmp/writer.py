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
from qmpserver.qmp.large import PIECE, Large, LongError, LongString
from qmpserver.qmp.order import member_order
from qmpserver.qmp.text import INVALID_CHARACTER, decode

__all__ = [
    "LONG_TEXT",
    "dumps",
    "error_message",
    "error_steps",
    "event_message",
    "return_message",
    "return_steps",
]

LONG_TEXT = 8192
"""Characters of an error's description from which on it is written in steps."""

_encode = json.JSONEncoder(check_circular=False).encode

_ESCAPED = re.compile('["\\\\\b\f\n\r\t]|[^\b\f\n\r\t -~]+')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_PLAIN = frozenset({str, int, bool, type(None)})

# The order of each set of members seen; None is the order they came in.  Names come
# from the schema, but those of an "id" come from the client: hence the bounds.
_orders: dict[tuple[str, ...], tuple[str, ...] | None] = {}
_MAX_ORDERS = 1024
_MAX_REMEMBERED = 1024  # letters
_MAX_ORDERED_NESTING = 100

_STEP_TOKENS = 64
_STEP_SIZE = 4096  # bytes


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


def return_steps(value: Any, request_id: Large, pretty: bool = False) -> Iterator[bytes]:
    """Return an iterator over the parts of what `return_message` returns.

    Raises:
        TypeError: `value` is not a JSON value.
    """
    message = return_message(value, False, None, pretty)
    end = b"\r\n}\r\n" if pretty else b"}\r\n"
    member = b',\r\n    "id": ' if pretty else b', "id": '
    parts = _parts(_tokens(request_id, pretty, False, depth=1))
    return itertools.chain((message.removesuffix(end) + member,), parts, (end,))


def error_steps(
    error: CommandError, has_id: bool = False, request_id: Any = None, pretty: bool = False
) -> Iterator[bytes]:
    """Return an iterator over the parts of what `error_message` returns."""
    desc = error.text if isinstance(error, LongError) else as_text(error.desc)
    message: dict[str, Any] = {"error": {"class": as_text(error.error_class), "desc": desc}}
    if has_id:
        message["id"] = request_id
    return itertools.chain(_parts(_tokens(message, pretty, False)), (b"\r\n",))


def _parts(tokens: Iterator[str]) -> Iterator[bytes]:
    """Yield the text in parts, each after a step; only the last part of a message ends a line."""
    some: list[str] = []
    size = 0
    for token in tokens:
        some.append(token)
        size += len(token)
        if size >= _STEP_SIZE or len(some) >= _STEP_TOKENS or not token:
            yield "".join(some).replace("\n", "\r\n").encode("ascii")
            some.clear()
            size = 0
    yield "".join(some).replace("\n", "\r\n").encode("ascii")


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
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return _ESCAPED.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found in _SHORT:
        return _SHORT[found]
    units = re.sub(INVALID_CHARACTER, "\ufffd", found).encode("utf-16-be")
    return "\\u" + units.hex("|", 2).upper().replace("|", "\\u")


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


def _tokens(value: Any, pretty: bool, finite: bool, depth: int = 0) -> Iterator[str]:
    """Yield the text of `value` in pieces, without recursion; empty ones between steps.

    Args:
        value: A JSON value, `Large` or `LongString`.
        pretty: As in `dumps`.
        finite: As in `dumps`.
        depth: The number of containers around it.
    """
    levels: list[tuple[_Children, str, int]] = []
    entered: set[int] = set()
    prefix = ""
    while True:
        identity = id(value)
        if identity in entered:
            raise TypeError(f"Object of type {type(value).__name__} contains itself")
        brackets, children = _children(value)
        if brackets:
            yield prefix + brackets[0]
            levels.append((children, brackets[1], identity))
            entered.add(identity)
            first = True
        else:
            scalar = value.value if isinstance(value, Large) else value
            if _is_long(scalar):
                yield prefix
                yield from _long_string(scalar)
            else:
                yield prefix + _scalar(scalar, finite)
            first = False
        while levels:
            children, closing, identity = levels[-1]
            child = next(children, _END)
            if child is None:
                yield ""
                continue
            if child is not _END:
                break
            levels.pop()
            entered.discard(identity)
            yield _newline(levels, pretty, depth) + closing
            first = False
        else:
            return
        separator = _newline(levels, pretty, depth)
        if not first:
            separator = "," + (separator or " ")
        name, value = child
        if name is None:
            prefix = separator
        elif _is_long(name):
            yield separator
            yield from _long_string(name)
            prefix = ": "
        else:
            prefix = f"{separator}{_string(name)}: "


_Children = Iterator[tuple[Any, Any] | None]
_END = ("", "")


def _children(value: Any) -> tuple[str, _Children]:
    """Return the brackets of a container and its members or elements; no brackets of a scalar."""
    if isinstance(value, Large):
        if value.value is dict:
            return "{}", value.ordered_members()
        if value.value is list:
            return "[]", (None if one is None else (None, one) for one in value.elements())
    elif isinstance(value, Mapping):
        return "{}", ((name, value[name]) for name in member_order(value))
    elif isinstance(value, list | tuple):
        return "[]", zip(itertools.repeat(None), value)
    return "", iter(())


def _is_long(value: Any) -> bool:
    return isinstance(value, LongString) or (isinstance(value, str) and len(value) > PIECE)


def _long_string(text: str | LongString) -> Iterator[str]:
    yield '"'
    if isinstance(text, LongString):
        for piece in text.pieces:
            yield from _slices(decode(piece))
    else:
        yield from _slices(text)
    yield '"'


def _slices(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield _escaped(text[start : start + PIECE])


def _newline(levels: list[Any], pretty: bool, depth: int) -> str:
    return "\n" + " " * (4 * (len(levels) + depth)) if pretty else ""
