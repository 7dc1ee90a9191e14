r"""Bytes to tokens: the lexical level of QEMU's JSON dialect.

It differs from RFC 8259 in that strings may be single-quoted, too, and in error
recovery: after a lexical error, bytes are skipped until one that can start a message
anew.  Clients rely on it to get the parser into a known state.

The lexer can stop and resume at every byte, in linear time for packets of any size.
The meaning of tokens is up to `parser`.
"""

import enum
import functools
import re
from collections.abc import Iterator

__all__ = ["MAX_TOKEN_SIZE", "PART_SIZE", "Lexer", "Token", "TokenKind"]

MAX_TOKEN_SIZE = 64 << 20

PART_SIZE = 16384
"""Bytes of a token that is not complete from which on they are passed on as a part."""


class TokenKind(enum.IntEnum):
    """The kind of a token."""

    STRUCTURE = 0
    STRING = 1
    INTEGER = 2
    FLOAT = 3
    KEYWORD = 4
    STRAY = 5
    """Bytes that start no token; the lexer skips to a resynchronization point."""
    OVERSIZE = 6
    """A token longer than MAX_TOKEN_SIZE; the lexer starts anew at the next byte."""
    PART = 7
    """The beginning of a long token, or its continuation; the rest follows."""


Token = tuple[TokenKind, bytes]


class _State(enum.IntEnum):
    START = 0
    RECOVERY = 1
    DOUBLE_QUOTED = 2
    SINGLE_QUOTED = 3
    DOUBLE_ESCAPE = 4
    SINGLE_ESCAPE = 5
    SIGN = 6
    ZERO = 7
    DIGITS = 8
    POINT = 9
    FRACTION = 10
    EXPONENT = 11
    EXPONENT_SIGN = 12
    EXPONENT_DIGITS = 13
    KEYWORD = 14


# A whole token whose end is certain: a number or a keyword ends only with the
# byte after it, so that byte must be there.  Everything else (an error, or a token
# that the end of the packet cuts) goes byte by byte.
_WHOLE = rb"""[ \t\r\n]*+(?:
      ([{}\[\]:,])
    | ("(?:[^\x00-\x1f"\\\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+"
      |'(?:[^\x00-\x1f'\\\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+')
    | (-?(?:0(?![0-9.])|[1-9][0-9]*+(?![.eE])))(?=.)
    | (-?(?:0|[1-9][0-9]*+)\.[0-9]++(?:[eE][-+]?[0-9]++|(?![eE]))
      |-?[1-9][0-9]*+[eE][-+]?[0-9]++)(?=.)
    | ([a-z]++)(?=.)
    )"""
_GROUP_KINDS = (
    TokenKind.STRUCTURE,
    TokenKind.STRING,
    TokenKind.INTEGER,
    TokenKind.FLOAT,
    TokenKind.KEYWORD,
)
_CLOSED = 2  # groups up to this one end with a byte of their own
_OPEN = (TokenKind.INTEGER, TokenKind.FLOAT, TokenKind.KEYWORD)

# Runs that do not change the state; skipping them makes long strings cheap.
_RUNS: dict[_State, bytes] = {
    _State.RECOVERY: rb"[^\x00-\x08\x0a-\x1f\[\]{}:,\xfe\xff]*+",
    _State.DOUBLE_QUOTED: rb'(?:[^\x00-\x1f"\\\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+',
    _State.SINGLE_QUOTED: rb"(?:[^\x00-\x1f'\\\xfe\xff]++|\\[^\x00-\x1f\xfe\xff])*+",
    _State.DIGITS: rb"[0-9]*+",
    _State.FRACTION: rb"[0-9]*+",
    _State.EXPONENT_DIGITS: rb"[0-9]*+",
    _State.KEYWORD: rb"[a-z]*+",
}


# Compiled at the first use: most clients send plain JSON only, which comes by no lexer.
@functools.cache
def _whole() -> re.Pattern[bytes]:
    return re.compile(_WHOLE, re.VERBOSE | re.DOTALL)


@functools.cache
def _runs() -> dict[_State, re.Pattern[bytes]]:
    return {state: re.compile(run) for state, run in _RUNS.items()}


_SPACE = b" \t\r\n"
_SPACES = re.compile(rb"[ \t\r\n]++")
_DIGIT = b"0123456789"
_NONZERO = b"123456789"
_LETTER = bytes(range(ord("a"), ord("z") + 1))
_IN_STRING = bytes(range(0x20, 0xFE))

# The next state for each byte; if two entries contain a byte, the later one counts.
# A byte in none is an error, unless the token may end before it (_ENDS).
_EDGES: dict[_State, tuple[tuple[bytes, _State], ...]] = {
    _State.START: (
        (b" \t\r\n", _State.START),
        (b'"', _State.DOUBLE_QUOTED),
        (b"'", _State.SINGLE_QUOTED),
        (b"-", _State.SIGN),
        (b"0", _State.ZERO),
        (_NONZERO, _State.DIGITS),
        (_LETTER, _State.KEYWORD),
    ),
    _State.DOUBLE_QUOTED: ((_IN_STRING, _State.DOUBLE_QUOTED), (b"\\", _State.DOUBLE_ESCAPE)),
    _State.SINGLE_QUOTED: ((_IN_STRING, _State.SINGLE_QUOTED), (b"\\", _State.SINGLE_ESCAPE)),
    _State.DOUBLE_ESCAPE: ((_IN_STRING, _State.DOUBLE_QUOTED),),
    _State.SINGLE_ESCAPE: ((_IN_STRING, _State.SINGLE_QUOTED),),
    _State.SIGN: ((b"0", _State.ZERO), (_NONZERO, _State.DIGITS)),
    _State.ZERO: ((b".", _State.POINT),),
    _State.DIGITS: ((_DIGIT, _State.DIGITS), (b".", _State.POINT), (b"eE", _State.EXPONENT)),
    _State.POINT: ((_DIGIT, _State.FRACTION),),
    _State.FRACTION: ((_DIGIT, _State.FRACTION), (b"eE", _State.EXPONENT)),
    _State.EXPONENT: ((b"+-", _State.EXPONENT_SIGN), (_DIGIT, _State.EXPONENT_DIGITS)),
    _State.EXPONENT_SIGN: ((_DIGIT, _State.EXPONENT_DIGITS),),
    _State.EXPONENT_DIGITS: ((_DIGIT, _State.EXPONENT_DIGITS),),
    _State.KEYWORD: ((_LETTER, _State.KEYWORD),),
}
_TABLE: dict[_State, dict[int, _State]] = {
    state: {byte: target for source, target in edges for byte in source}
    for state, edges in _EDGES.items()
}
_ENDS = {
    _State.ZERO: TokenKind.INTEGER,
    _State.DIGITS: TokenKind.INTEGER,
    _State.FRACTION: TokenKind.FLOAT,
    _State.EXPONENT_DIGITS: TokenKind.FLOAT,
    _State.KEYWORD: TokenKind.KEYWORD,
}
_CLOSING_QUOTE = {_State.DOUBLE_QUOTED: ord('"'), _State.SINGLE_QUOTED: ord("'")}
_STRUCTURE = frozenset(b"{}[]:,")


class Lexer:
    """Splits a stream of bytes into tokens.

    Not thread-safe; one lexer serves one stream.
    """

    __slots__ = (
        "_begun",
        "_column",
        "_data",
        "_late",
        "_line",
        "_partial",
        "_passed",
        "_start",
        "_state",
    )

    def __init__(self) -> None:
        self._state = _State.START
        self._partial = bytearray()
        self._passed = 0  # bytes of the token that were passed on in parts
        self._data = b""
        self._line = self._column = 1  # of the first byte of `_data`
        self._start = 0  # where in it the last token starts; negative if it began before
        self._begun = 1, 1  # its line and column then
        self._late = False

    @property
    def idle(self) -> bool:
        """Whether the next byte begins a token: no token is incomplete, none skipped."""
        return self._state is _State.START

    def feed(self, data: bytes) -> Iterator[Token]:
        """Yield the tokens that `data` completes; the caller must take all."""
        self._data = data
        ends_token = False  # whether the byte at `position` has ended a number or a keyword
        position = 0
        end = len(data)
        whole = _whole()
        while position < end:
            if self._state is _State.START:
                match = whole.match(data, position)
                if match is not None and match.end() - position <= MAX_TOKEN_SIZE:
                    group = match.lastindex
                    assert group is not None
                    self._start = match.start(group)
                    self._late = ends_token and self._start == position
                    ends_token = group > _CLOSED
                    position = match.end()
                    yield _GROUP_KINDS[group - 1], match[group]
                    continue
                self._late = ends_token and data[position] not in _SPACE
            position, token = self._walk(data, position)
            if token is not None:
                ends_token = token[0] in _OPEN
                yield token
        if self._start >= 0 and self._state not in (_State.START, _State.RECOVERY):
            self._begun = self._place(data, self._start)
        self._start = -1
        self.skip(data, end)

    def skip(self, data: bytes, end: int) -> None:
        """Count the lines and columns of `data` up to `end`, whose tokens are known."""
        self._line, self._column = self._place(data, end)

    @property
    def place(self) -> tuple[int, int]:
        """The line and the column where the last token starts, from 1, as QEMU counts them.

        The byte that ends a number, a keyword or a recovery counts twice if a token starts with it.
        """
        begun = self._start < 0
        line, column = self._begun if begun else self._place(self._data, self._start)
        return line, column + self._late

    def _place(self, data: bytes, position: int) -> tuple[int, int]:
        lines = data.count(b"\n", 0, position)
        column = position - data.rindex(b"\n", 0, position) if lines else self._column + position
        return self._line + lines, column

    def _walk(self, data: bytes, position: int) -> tuple[int, Token | None]:
        """Go byte by byte to the end of one token or of `data`."""
        state = self._state
        if state is _State.START and (space := _SPACES.match(data, position)) is not None:
            position = space.end()
        partial = self._partial
        room = MAX_TOKEN_SIZE - self._passed
        end = len(data)
        runs = _runs()
        while position < end:
            run = runs.get(state)
            if run is not None:
                # Within a token, no run may pass the byte that exceeds the limit.
                limit = min(end, position + room + 1 - len(partial))
                match = run.match(data, position, limit if state is not _State.RECOVERY else end)
                assert match is not None
                if state is not _State.RECOVERY:
                    partial += match[0]
                    if len(partial) > room:
                        return self._finish(match.end(), TokenKind.OVERSIZE)
                position = match.end()
                if position == end:
                    break
            byte = data[position]
            if state is _State.RECOVERY:
                state = _State.START
                self._late = byte not in _SPACE
            if state is _State.START:
                self._start = position
            if state is _State.START and byte in _STRUCTURE:
                self._state = _State.START
                return position + 1, (TokenKind.STRUCTURE, bytes((byte,)))
            if byte == _CLOSING_QUOTE.get(state):
                partial.append(byte)
                return self._finish(position + 1, TokenKind.STRING)
            target = _TABLE[state].get(byte)
            if target is None:
                # A zero may not be followed by a digit; anything else ends a number.
                if state in _ENDS and not (state is _State.ZERO and byte in _DIGIT):
                    return self._finish(position, _ENDS[state])
                partial.append(byte)
                return self._finish(position + 1, TokenKind.STRAY)
            position += 1
            state = target
            if state is not _State.START:
                partial.append(byte)
                if len(partial) > room:
                    return self._finish(position, TokenKind.OVERSIZE)
        self._state = state
        if len(partial) < PART_SIZE:
            return position, None
        self._passed += len(partial)
        part = bytes(partial)
        partial.clear()
        return position, (TokenKind.PART, part)

    def _finish(self, position: int, kind: TokenKind) -> tuple[int, Token]:
        token = bytes(self._partial)
        self._partial.clear()
        self._passed = 0
        self._state = _State.RECOVERY if kind is TokenKind.STRAY else _State.START
        return position, (kind, token)
