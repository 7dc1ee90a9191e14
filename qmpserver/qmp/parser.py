"""Tokens to messages: the grammar of QEMU's JSON dialect, its limits, and the fast path.

A message ends where its brackets balance, not at the end of a line.  The first
error inside a message, from left to right, is reported at the message's end; a
lexical error or an exceeded limit is reported at once.  Nesting uses a list, never
Python's stack.
"""

import enum
import itertools
from collections.abc import Iterator
from typing import Any

from qmpserver.qmp.errors import ParseError
from qmpserver.qmp.lexer import MAX_TOKEN_SIZE, Lexer, Token, TokenKind
from qmpserver.qmp.literals import parse_error, scalar
from qmpserver.qmp.plain import loads
from qmpserver.qmp.text import decode_lossy

__all__ = ["MAX_NESTING", "MAX_TOKEN_COUNT", "Parser"]

MAX_NESTING = 1024
MAX_TOKEN_COUNT = 2 << 20

# Longer or deeper packets are rare; the slow path checks their limits.
_FAST_SIZE = 1 << 20
_FAST_NESTING = 64

# The work of one step: about 100 us at most.
_STEP_LINES = 64
_STEP_TOKENS = 8


class _Expect(enum.Enum):
    """The expected token in an object or array that is being read."""

    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    COLON = enum.auto()
    MEMBER_VALUE = enum.auto()
    MEMBER_END = enum.auto()
    FIRST_ELEMENT = enum.auto()
    ELEMENT = enum.auto()
    ELEMENT_END = enum.auto()


class _Frame:
    """An object or array that is being read."""

    __slots__ = ("container", "expect", "key")

    def __init__(self, container: dict[str, Any] | list[Any], expect: _Expect) -> None:
        self.container = container
        self.expect = expect
        self.key = ""


_OBJECT_OR_ARRAY = {b"{": (dict, _Expect.FIRST_KEY), b"[": (list, _Expect.FIRST_ELEMENT)}


class _Builder:
    """Builds one message from its tokens, up to the first error."""

    __slots__ = ("error", "frames", "result")

    def __init__(self) -> None:
        self.frames: list[_Frame] = []
        self.error: ParseError | None = None
        self.result: Any = None

    def token(self, token: Token) -> None:
        """Take one token; after an error, further tokens are ignored."""
        if self.error is None:
            try:
                self._token(token)
            except ParseError as error:
                self.error = error
                self.frames.clear()

    def _token(self, token: Token) -> None:
        kind, raw = token
        if self.frames:
            frame = self.frames[-1]
            match frame.expect:
                case _Expect.FIRST_KEY if raw == b"}":
                    return self._close()
                case _Expect.FIRST_ELEMENT if raw == b"]":
                    return self._close()
                case _Expect.COLON:
                    if raw != b":":
                        raise parse_error("missing : in object pair")
                    frame.expect = _Expect.MEMBER_VALUE
                    return None
                case _Expect.MEMBER_END:
                    if raw == b"}":
                        return self._close()
                    if raw != b",":
                        raise parse_error("expected separator in dict")
                    frame.expect = _Expect.KEY
                    return None
                case _Expect.ELEMENT_END:
                    if raw == b"]":
                        return self._close()
                    if raw != b",":
                        raise parse_error("expected separator in list")
                    frame.expect = _Expect.ELEMENT
                    return None
        if kind is not TokenKind.STRUCTURE:
            return self._value(scalar(token))
        try:
            container, expect = _OBJECT_OR_ARRAY[raw]
        except KeyError:
            raise parse_error("expecting value") from None
        self.frames.append(_Frame(container(), expect))
        return None

    def _close(self) -> None:
        self._value(self.frames.pop().container)

    def _value(self, value: Any) -> None:
        if not self.frames:
            self.result = value
            return
        frame = self.frames[-1]
        container = frame.container
        if isinstance(container, list):
            container.append(value)
            frame.expect = _Expect.ELEMENT_END
        elif frame.expect is _Expect.MEMBER_VALUE:
            if frame.key in container:
                raise parse_error("duplicate key")
            container[frame.key] = value
            frame.expect = _Expect.MEMBER_END
        elif isinstance(value, str):
            frame.key = value
            frame.expect = _Expect.COLON
        else:
            raise parse_error("key is not a string in object")


class Parser:
    """Streaming parser of QEMU's JSON dialect.

    Not thread-safe; one parser serves one stream.

    Args:
        fast: Parse plain messages with a general library.  The result is the same
            without, and tests compare the two.
    """

    __slots__ = ("_braces", "_brackets", "_builder", "_fast", "_lexer", "_size", "_tokens")

    def __init__(self, *, fast: bool = True) -> None:
        self._fast = fast
        self._lexer = Lexer()
        self._builder = _Builder()
        self._reset()

    def _reset(self) -> None:
        self._builder.frames.clear()
        self._builder.error = None
        self._builder.result = None
        self._braces = 0
        self._brackets = 0
        self._tokens = 0
        self._size = 0

    @property
    def idle(self) -> bool:
        """Whether no message is incomplete."""
        return self._tokens == 0 and self._lexer.idle

    def feed(self, data: bytes) -> list[Any]:
        """Take the next bytes of the stream.

        Returns:
            The completed messages: JSON values, and for each error a `ParseError`,
            which is returned, not raised.
        """
        return [message for messages in self.steps(data) for message in messages]

    def steps(self, data: bytes) -> Iterator[list[Any]]:
        """Take the next bytes of the stream, in short steps.

        Each step yields the messages that it has completed, as `feed` returns them; there may
        be none.  The caller must take all steps before it calls this again.
        """
        if self._fast and self.idle:
            while data:
                messages: list[Any] = []
                rest = _parse_plain(data, messages)
                if messages:
                    yield messages
                if len(rest) == len(data):
                    break
                data = rest
        tokens = self._lexer.feed(data)
        while some := list(itertools.islice(tokens, _STEP_TOKENS)):
            messages = []
            for token in some:
                self._token(token, messages)
            yield messages

    def _token(self, token: Token, messages: list[Any]) -> None:
        kind, raw = token
        if kind is TokenKind.STRUCTURE:
            if raw == b"{":
                self._braces += 1
            elif raw == b"}":
                self._braces -= 1
            elif raw == b"[":
                self._brackets += 1
            elif raw == b"]":
                self._brackets -= 1
        error: ParseError | None = None
        if kind is TokenKind.STRAY:
            error = ParseError(f"JSON parse error, stray '{decode_lossy(raw)}'")
        elif self._size + len(raw) + 1 > MAX_TOKEN_SIZE:
            error = ParseError("JSON token size limit exceeded")
        elif self._tokens + 1 > MAX_TOKEN_COUNT:
            error = ParseError("JSON token count limit exceeded")
        elif self._braces + self._brackets > MAX_NESTING:
            error = ParseError("JSON nesting depth limit exceeded")
        else:
            self._builder.token(token)
            self._tokens += 1
            self._size += len(raw)
            braces, brackets = self._braces, self._brackets
            if (braces > 0 or brackets > 0) and braces >= 0 and brackets >= 0:
                return
            error = self._builder.error
        messages.append(error if error is not None else self._builder.result)
        self._reset()


def _parse_plain(data: bytes, messages: list[Any]) -> bytes:
    """Parse the leading lines of `data` with one plain object each, up to one step's work.

    Returns:
        The rest, for the slow path, which handles everything.
    """
    # Single quotes outside of strings, control characters and bad bytes are
    # errors in both libraries, too.  Escapes and non-ASCII characters are excluded here;
    # _is_plain() finds the remaining differences.
    if len(data) > _FAST_SIZE or b"\\" in data or not data.isascii():
        return data
    start = 0
    end = len(data)
    while start < end and len(messages) < _STEP_LINES:
        newline = data.find(b"\n", start)
        line = data[start : newline if newline >= 0 else end]
        try:
            message = loads(line)
        except ValueError:
            if not line or line == b"\r":
                start += len(line) + 1
                continue
            break
        if type(message) is not dict or not _is_plain(line, message):
            break
        messages.append(message)
        start += len(line) + 1
    return data[start:]


def _is_plain(line: bytes, message: dict[str, Any]) -> bool:
    """Return whether the library's result for `line` is certainly QEMU's, too.

    It is not if there may be duplicate keys (more colons than keys, perhaps inside of
    strings), nor with doubles: QEMU's dialect decides which integers become doubles, and
    the values of `0e5` or `-0`.
    """
    if line.count(b"{") + line.count(b"[") > _FAST_NESTING:
        return False
    keys = _count_keys(message)
    return keys >= 0 and (keys == line.count(b":") or keys == _count_members(line))


def _count_keys(value: dict[str, Any] | list[Any]) -> int:
    """Return the number of keys in `value`, nested ones included; negative if there is a double."""
    if type(value) is dict:
        count = len(value)
        items: Any = value.values()
    else:
        count = 0
        items = value
    for item in items:
        kind = type(item)
        if kind is float:
            return -1
        if kind is dict or kind is list:
            below = _count_keys(item)
            if below < 0:
                return -1
            count += below
    return count


def _count_members(line: bytes) -> int:
    """Return the number of colons outside of strings in `line`, which is valid, without escapes."""
    return sum(part.count(b":") for part in line.split(b'"')[::2])
