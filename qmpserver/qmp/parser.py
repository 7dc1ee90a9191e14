"""Tokens to messages: the grammar of QEMU's JSON dialect, its limits, and the fast path.

A message ends where its brackets balance, not at the end of a line.  The first
error inside a message, from left to right, is reported at once, with its place; the
rest of the message is skipped.  QEMU before 11.1 reported it at the message's end,
in other words, and a lexical error or an exceeded limit ended the message.  Nesting
uses a list, never Python's stack.
"""

import enum
import re
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

from qmpserver.qmp.errors import CommandError, ParseError
from qmpserver.qmp.large import Large, LongString, Name, Steps, Tape
from qmpserver.qmp.lexer import MAX_TOKEN_SIZE, Lexer, Token, TokenKind
from qmpserver.qmp.literals import long_scalar, long_stray, parse_error, scalar, stray
from qmpserver.qmp.plain import loads

__all__ = ["MAX_NESTING", "MAX_TOKEN_COUNT", "Parser"]

MAX_NESTING = 1024
MAX_TOKEN_COUNT = 2 << 20

_PACKET = 16384  # bytes taken at once

# Deeper packets are rare; the slow path checks their limits.
_FAST_NESTING = 64

# The work of one step: about 100 us at most.
_STEP_LINES = 64
_STEP_TOKENS = 8
_STEP_SIZE = 1024  # bytes

_FAST_LINE = 4096  # bytes

# A message with more tokens or bytes, or with a longer token, is large.
_SMALL_TOKENS = 512
_SMALL_SIZE = 8192
_LONG_TOKEN = 2048

_BLANK = re.compile(rb"[\r\n]++")

_LARGEST_SET = 4096
_SETS = 256


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


_BETWEEN_VALUES = (_Expect.COLON, _Expect.MEMBER_END, _Expect.ELEMENT_END)
_KEYS = (_Expect.FIRST_KEY, _Expect.KEY)

# Rules that are broken: in the words since QEMU 11.1, and in those before.
_KEY = "expecting key", "key is not a string in object"
_COLON = "expecting ':'", "missing : in object pair"
_MEMBER_END = "expected ',' or '}'", "expected separator in dict"
_ELEMENT_END = "expected ',' or ']'", "expected separator in list"


class _Frame:
    """An object or array that is being read."""

    __slots__ = ("container", "expect", "key")

    def __init__(self, container: Any, expect: _Expect) -> None:
        self.container = container
        self.expect = expect
        self.key = ""


_OBJECT_OR_ARRAY: dict[bytes, tuple[type, _Expect]] = {
    b"{": (dict, _Expect.FIRST_KEY),
    b"[": (list, _Expect.FIRST_ELEMENT),
}


class _Builder:
    """Builds one message from its tokens, up to the first error.

    Args:
        at_once: Check keys before their values, and use the words since QEMU 11.1.
    """

    __slots__ = ("_at_once", "error", "frames", "result")

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self.frames: list[Any] = []
        self.error: CommandError | None = None
        self.result: Any = None

    def token(self, token: Token) -> None:
        """Take one token; after an error, further tokens are ignored."""
        if self.error is None:
            try:
                self._token(token)
            except ParseError as error:
                self.fail(error)

    def fail(self, error: CommandError) -> None:
        """Ignore all further tokens."""
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
                        raise self._broken(_COLON)
                    frame.expect = _Expect.MEMBER_VALUE
                    return None
                case _Expect.MEMBER_END:
                    if raw == b"}":
                        return self._close()
                    if raw != b",":
                        raise self._broken(_MEMBER_END)
                    frame.expect = _Expect.KEY
                    return None
                case _Expect.ELEMENT_END:
                    if raw == b"]":
                        return self._close()
                    if raw != b",":
                        raise self._broken(_ELEMENT_END)
                    frame.expect = _Expect.ELEMENT
                    return None
                case _Expect.FIRST_KEY | _Expect.KEY if self._at_once:
                    if kind is not TokenKind.STRING:
                        raise self._broken(_KEY)
        if kind is not TokenKind.STRUCTURE:
            return self._value(scalar(token))
        try:
            container, expect = _OBJECT_OR_ARRAY[raw]
        except KeyError:
            raise parse_error("expecting value") from None
        return self._open(container, expect)

    def _broken(self, words: tuple[str, str]) -> ParseError:
        """Return the error for a broken rule."""
        return parse_error(words[0] if self._at_once else words[1])

    def _open(self, container: type, expect: _Expect) -> None:
        self.frames.append(_Frame(container(), expect))

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
            raise self._broken(_KEY)


class _LargeFrame:
    """An object or array of a large message that is being read; it begins at `start`."""

    __slots__ = ("expect", "key", "names", "start")

    def __init__(self, start: int, expect: _Expect) -> None:
        self.start = start
        self.expect = expect
        self.key: Name = ""
        self.names: list[set[Name]] = [set()]

    def add(self, name: Name) -> bool:
        """Remember the name of a member; return False if there is one already."""
        if len(self.names) == 1 and len(self.names[0]) == _LARGEST_SET:
            # To grow one set would take long.
            names = self.names[0]
            self.names = [set() for _ in range(_SETS)]
            for one in names:
                self.names[hash(one) % _SETS].add(one)
        among = self.names[hash(name) % len(self.names)]
        before = len(among)
        among.add(name)
        return len(among) > before


class _LargeBuilder(_Builder):
    """Builds one large message, a `Large`, in steps."""

    __slots__ = ("_closed", "_long", "tape")

    def __init__(self, at_once: bool, tokens: Iterable[Token]) -> None:
        super().__init__(at_once)
        self.tape = Tape()
        self._closed: list[set[Name]] = []
        self._long: LongString | float | None = None
        for token in tokens:
            self.token(token)

    def token(self, token: Token) -> None:
        """Take one token."""
        if self._closed:
            self._closed.pop()
        super().token(token)

    def long_token(self, kind: TokenKind, parts: list[bytes]) -> Steps:
        """Take one long token in steps; `parts` are used up."""
        if self.error is not None:
            return
        try:
            if self.frames and self.frames[-1].expect in (*_BETWEEN_VALUES, *self._keys(kind)):
                self._token((kind, b""))  # an error
            self._value((yield from long_scalar(kind, parts)))
        except ParseError as error:
            self.fail(error)

    def _keys(self, kind: TokenKind) -> tuple[_Expect, ...]:
        """Return the expectations of a key that a token of this kind does not meet."""
        return _KEYS if self._at_once and kind is not TokenKind.STRING else ()

    def fail(self, error: CommandError) -> None:
        """Ignore all further tokens."""
        for frame in self.frames:
            self._closed += frame.names
        super().fail(error)

    def release(self) -> Steps:
        """Free everything but the result, in steps."""
        for frame in self.frames:
            self._closed += frame.names
        while self._closed:
            self._closed.pop()
            yield
        if self.result is None:
            yield from self.tape.release()

    def _open(self, container: type, expect: _Expect) -> None:
        self.frames.append(_LargeFrame(len(self.tape.values), expect))
        self.tape.values.append(container)
        self.tape.ends.append(0)

    def _close(self) -> None:
        frame = self.frames.pop()
        self._closed += frame.names
        self.tape.ends[frame.start] = len(self.tape.values)
        self._complete(None)

    def _value(self, value: Any) -> None:
        self.tape.values.append(value)
        self.tape.ends.append(len(self.tape.values))
        self._complete(value)

    def _complete(self, value: Any) -> None:
        """Note that a value is complete; of containers, `value` is None."""
        if not self.frames:
            self.result = Large(self.tape)
            return
        frame = self.frames[-1]
        match frame.expect:
            case _Expect.FIRST_ELEMENT | _Expect.ELEMENT:
                frame.expect = _Expect.ELEMENT_END
            case _Expect.MEMBER_VALUE:
                if not frame.add(frame.key):
                    raise parse_error("duplicate key")
                frame.expect = _Expect.MEMBER_END
            case _ if isinstance(value, str | LongString):
                frame.key = value
                frame.expect = _Expect.COLON
            case _:
                raise self._broken(_KEY)


class Parser:
    """Streaming parser of QEMU's JSON dialect.

    Not thread-safe; one parser serves one stream.

    Args:
        fast: Parse plain messages with a general library.  The result is the same
            without, and tests compare the two.
        error_places: Report errors at once, with the line and the column, as QEMU does since 11.1;
            otherwise as QEMU did before.
    """

    __slots__ = (
        "_braces",
        "_brackets",
        "_builder",
        "_error_places",
        "_fast",
        "_garbage",
        "_lexer",
        "_parts",
        "_seen",
        "_size",
        "_skipping",
        "_tokens",
    )

    def __init__(self, *, fast: bool = True, error_places: bool = False) -> None:
        self._fast = fast
        self._error_places = error_places
        self._lexer = Lexer()
        self._builder = _Builder(error_places)
        self._seen: list[Token] = []  # of a message that may become large
        self._parts: list[bytes] = []  # of a long token
        self._garbage: list[_LargeBuilder] = []
        self._reset()

    def _reset(self) -> None:
        if isinstance(self._builder, _LargeBuilder):
            self._garbage.append(self._builder)
            self._builder = _Builder(self._error_places)
        self._builder.frames.clear()
        self._builder.error = None
        self._builder.result = None
        self._seen.clear()
        self._braces = 0
        self._brackets = 0
        self._tokens = 0
        self._size = 0
        self._skipping = False  # after an error that has been reported

    @property
    def idle(self) -> bool:
        """Whether no message is incomplete."""
        return self._tokens == 0 and self._lexer.idle

    def feed(self, data: bytes) -> list[Any]:
        """Take the next bytes of the stream.

        Returns:
            The completed messages: JSON values, `Large` if they are large, and for each error a
            `CommandError`, which is returned, not raised.
        """
        return [message for messages in self.steps(data) for message in messages]

    def steps(self, data: bytes) -> Iterator[list[Any]]:
        """Take the next bytes of the stream, in short steps.

        Each step yields the messages that it has completed, as `feed` returns them; there may
        be none.  The caller must take all steps before it calls this again.
        """
        if len(data) <= _PACKET:
            return self._packet(data)
        packets = (data[start : start + _PACKET] for start in range(0, len(data), _PACKET))
        return (messages for packet in packets for messages in self._packet(packet))

    def release(self) -> Steps:
        """Free an incomplete message in steps; the parser cannot be used afterwards."""
        self._reset()
        while self._garbage:
            yield from self._garbage.pop().release()

    def _packet(self, data: bytes) -> Iterator[list[Any]]:
        if self._fast and self.idle:
            while data:
                messages: list[Any] = []
                rest = _parse_plain(data, messages)
                if messages:
                    yield messages
                if len(rest) == len(data):
                    break
                self._lexer.skip(data, len(data) - len(rest))
                data = rest
            else:
                return
        messages = []
        count = size = 0
        for token in self._lexer.feed(data):
            length = len(token[1])
            if token[0] is TokenKind.PART:
                self._parts.append(token[1])
            elif self._parts or length > _LONG_TOKEN:
                yield messages
                messages = []
                yield from self._long_token(token, messages)
            else:
                self._token(token, messages)
            count += 1
            size += length
            if count >= _STEP_TOKENS or size >= _STEP_SIZE:
                yield messages
                messages = []
                count = size = 0
            while self._garbage:
                for _ in self._garbage.pop().release():
                    yield []
        if count:
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
        if kind is TokenKind.STRAY:
            self._lexical_error(messages, stray(raw, self._place()))
        elif not self._exceeds(len(raw), messages):
            if type(self._builder) is _Builder:
                if self._tokens < _SMALL_TOKENS and self._size < _SMALL_SIZE:
                    self._seen.append(token)
                else:
                    self._grow()
            self._builder.token(token)
            self._taken(len(raw), messages)

    def _lexical_error(self, messages: list[Any], error: CommandError) -> None:
        """End the message at bytes that start no token."""
        self._end(messages, self._builder.error if self._skipping else error)

    def _long_token(self, token: Token, messages: list[Any]) -> Iterator[list[Any]]:
        """Take the end of a long token, in steps."""
        kind, raw = token
        parts, self._parts = [*self._parts, raw], []
        size = sum(map(len, parts))
        if kind is TokenKind.STRAY:
            error = yield from _paused(long_stray(parts, self._place()))
            self._lexical_error(messages, error)
        elif not self._exceeds(size, messages):
            builder = self._grow()
            yield from _paused(builder.long_token(kind, parts))
            self._taken(size, messages)

    def _grow(self) -> _LargeBuilder:
        """Go on with a builder for large messages."""
        if not isinstance(self._builder, _LargeBuilder):
            error = self._builder.error
            self._builder = _LargeBuilder(self._error_places, () if error else self._seen)
            self._builder.error = error
            self._seen.clear()
        return self._builder

    def _exceeds(self, size: int, messages: list[Any]) -> bool:
        """Report an error, and skip or end the message, if a token of `size` bytes is too much."""
        if self._skipping:
            return False
        if self._size + size + 1 > MAX_TOKEN_SIZE:
            limit = "token size"
        elif self._tokens + 1 > MAX_TOKEN_COUNT:
            limit = "token count"
        elif self._braces + self._brackets > MAX_NESTING:
            limit = "nesting depth"
        else:
            return False
        error = ParseError(f"JSON {limit} limit exceeded")
        if self._error_places:
            self._builder.fail(error)
            self._report(messages, error)
            self._taken(size, messages)
        else:
            self._end(messages, error)
        return True

    def _report(self, messages: list[Any], error: CommandError) -> None:
        """Report an error at once, and skip the rest of its message."""
        messages.append(error)
        self._skipping = True

    def _place(self) -> str:
        """Return the beginning of an error's text, about the last token."""
        return "{}:{}: ".format(*self._lexer.place) if self._error_places else ""

    def _taken(self, size: int, messages: list[Any]) -> None:
        """Count a token, and end the message if it is complete."""
        self._tokens += 1
        self._size += size
        error = self._builder.error
        if error is not None and self._error_places and not self._skipping:
            self._report(messages, ParseError(self._place() + error.desc))
        braces, brackets = self._braces, self._brackets
        if not ((braces > 0 or brackets > 0) and braces >= 0 and brackets >= 0):
            self._end(messages, self._builder.error)

    def _end(self, messages: list[Any], error: CommandError | None) -> None:
        if error is not None:
            self._builder.result = None
        if not self._skipping:
            messages.append(self._builder.result if error is None else error)
        self._reset()


T = TypeVar("T")


def _paused(steps: Generator[None, None, T]) -> Generator[list[Any], None, T]:
    """Take all steps, and yield no messages between them; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield []


def _parse_plain(data: bytes, messages: list[Any]) -> bytes:
    """Parse the leading lines of `data` with one plain object each, up to one step's work.

    Returns:
        The rest, for the slow path, which handles everything.
    """
    # Single quotes outside of strings, control characters and bad bytes are
    # errors in both libraries, too.  Escapes and non-ASCII characters are excluded here;
    # _is_plain() finds the remaining differences.
    if b"\\" in data or not data.isascii():
        return data
    start = 0
    end = len(data)
    while len(messages) < _STEP_LINES:
        blank = _BLANK.match(data, start)
        if blank is not None:
            start = blank.end()
        if start >= end:
            break
        newline = data.find(b"\n", start)
        line = data[start : newline if newline >= 0 else end]
        if len(line) > _FAST_LINE:
            break
        try:
            message = loads(line)
        except ValueError:
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
