"""Values of single tokens: strings, numbers, keywords; `parser` handles nesting."""

import re
from collections.abc import Generator, Iterator

from qmpserver.qmp.errors import CommandError, ParseError
from qmpserver.qmp.large import PIECE, Collector, LongError, LongString
from qmpserver.qmp.lexer import Token, TokenKind
from qmpserver.qmp.text import INVALID_CHARACTER, decode, decode_lossy, is_valid_codepoint

__all__ = ["Scalar", "long_scalar", "long_stray", "parse_error", "scalar", "stray"]

Scalar = str | int | float | bool | None

_MESSAGE_ROOM = 1023
_KEYWORDS: dict[bytes, bool | None] = {b"true": True, b"false": False, b"null": None}
_ESCAPES = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_HEX = frozenset(b"0123456789abcdefABCDEF")
_INT64_MIN = -(1 << 63)
_UINT64_MAX = (1 << 64) - 1
# No 64-bit number is longer; longer ones need no big-number arithmetic.
_LONGEST_INTEGER = 20
# More digits than a double needs to be rounded correctly, if one more tells of the rest.
_DIGITS = 800
_UNICODE_ESCAPES = rb"(?:\\u[0-9a-fA-F]{4})++"
_STRAY_PIECE = 128  # bytes: invalid ones are read one by one
_LONGEST_ESCAPE = 12  # a surrogate pair
_LONGEST_CHARACTER = 6  # in `decode_lossy`


def parse_error(message: str) -> ParseError:
    """Return the error for input that breaks a rule of the grammar."""
    return ParseError(f"JSON parse error, {message[:_MESSAGE_ROOM]}")


def scalar(token: Token) -> Scalar:
    """Return the value of a string, number or keyword token.

    Raises:
        ParseError: The token has the form of a value but is invalid.
    """
    kind, raw = token
    if kind is TokenKind.STRING:
        return _string(raw)
    if kind is TokenKind.INTEGER and len(raw) <= _LONGEST_INTEGER:
        number = int(raw)
        if _INT64_MIN <= number <= _UINT64_MAX:
            return number
    if kind is not TokenKind.KEYWORD:
        return float(raw)
    try:
        return _KEYWORDS[raw]
    except KeyError:
        raise parse_error(f"invalid keyword '{raw.decode('ascii')}'") from None


def long_scalar(kind: TokenKind, parts: list[bytes]) -> Generator[None, None, LongString | float]:
    """Return the value of a long token, in steps; `parts` are used up.

    Raises:
        ParseError: The token has the form of a value but is invalid.
    """
    if kind is TokenKind.STRING:
        return (yield from _long_string(parts))
    if kind is TokenKind.KEYWORD:
        raise parse_error(f"invalid keyword '{parts[0].decode('ascii')}'")
    return (yield from _long_number(parts))


def stray(raw: bytes, place: str) -> ParseError:
    """Return the error for bytes that start no token; `place` is the beginning of its text."""
    return ParseError(f"{place}JSON parse error, stray '{decode_lossy(raw)}'")


def long_stray(parts: list[bytes], place: str) -> Generator[None, None, CommandError]:
    """Return the error for the beginning of a long token and a byte that does not continue it."""
    text = Collector()
    text.add(f"{place}JSON parse error, stray '")
    rest = b""
    for piece, last in _pieces(parts, _STRAY_PIECE):
        raw = rest + piece
        end = len(raw) if last else _character_end(raw)
        text.add(decode_lossy(raw[:end]))
        rest = raw[end:]
        yield
    text.add("'")
    return LongError(text.string())


def _long_string(parts: list[bytes]) -> Generator[None, None, LongString]:
    text = Collector()
    parts[0] = parts[0][1:]
    rest = b""
    for piece, last in _pieces(parts, PIECE):
        raw = rest + piece
        end = len(raw) - 1 if last else _character_end(raw)
        decoded, position = _unescape(raw, 0, end, end if last else end - _LONGEST_ESCAPE)
        text.add("".join(decoded))
        rest = raw[position:]
        yield
    return text.string()


def _long_number(parts: list[bytes]) -> Generator[None, None, float]:
    """Return the double nearest to a number of any length."""
    negative = parts[0].startswith(b"-")
    parts[0] = parts[0].removeprefix(b"-")
    digits = bytearray()
    power = b""  # without leading zeros
    exponent, direction = 0, 1
    fraction = rounded = scaled = False
    for piece, _ in _pieces(parts, PIECE):
        mantissa, scale = (b"", piece) if scaled else (piece, b"")
        if not scaled:
            mantissa, marker, scale = piece.lower().partition(b"e")
            scaled = bool(marker)
        for run in mantissa.partition(b"."):
            if run == b".":
                fraction = True
                continue
            if fraction:
                exponent -= len(run)
            if not digits:
                run = run.lstrip(b"0")
            taken = run[: _DIGITS - len(digits)]
            digits += taken
            exponent += len(run) - len(taken)
            rounded = rounded or bool(run[len(taken) :].strip(b"0"))
        if scale.startswith(b"-"):
            direction = -1
        power = (power + scale).lstrip(b"+-0")[: _LONGEST_INTEGER + 1]
        yield
    if rounded:
        digits += b"1"
        exponent -= 1
    exponent += direction * int(power or b"0")
    value = float(b"%be%d" % (bytes(digits) or b"0", exponent))
    return -value if negative else value


def _pieces(parts: list[bytes], careful: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the contents of `parts`, which it empties, in pieces, and whether each is the last.

    Those with a backslash or a byte that is not ASCII have at most `careful` bytes.
    """
    parts.reverse()
    while parts:
        part = parts.pop()
        size = careful if b"\\" in part or not part.isascii() else max(len(part), 1)
        for start in range(0, max(len(part), 1), size):
            yield part[start : start + size], not parts and start + size >= len(part)


def _character_end(raw: bytes) -> int:
    """Return the end of the last character of `raw` that is certainly complete."""
    for end in range(len(raw) - 1, max(len(raw) - 1 - _LONGEST_CHARACTER, -1), -1):
        if raw[end] >= 0xC0:
            return end
    return len(raw)


def _string(raw: bytes) -> str:
    body = raw[1:-1]
    if b"\\" not in body:
        return _plain(body)
    parts, _ = _unescape(raw, 1, len(raw) - 1, len(raw) - 1)
    return "".join(parts)


def _unescape(raw: bytes, position: int, end: int, stop: int) -> tuple[list[str], int]:
    """Decode a string's contents.

    Args:
        raw: Contains them.
        position: Where they begin.
        end: Where they end.
        stop: From where on no escape sequence is begun.

    Returns:
        The decoded parts, and the position up to which they were decoded.
    """
    parts: list[str] = []
    while position < stop:
        backslash = raw.find(b"\\", position, end)
        if backslash < 0:
            backslash = end
        if backslash > position:
            parts.append(_plain(raw[position:backslash]))
            position = backslash
            continue
        escape = raw[backslash + 1]
        if escape == ord("u"):
            text, position = _unicode_escapes(raw, backslash, stop)
            parts.append(text)
        elif escape in _ESCAPES:
            parts.append(_ESCAPES[escape])
            position = backslash + 2
        else:
            raise parse_error("invalid escape sequence in string")
    return parts, position


def _plain(raw: bytes) -> str:
    try:
        return decode(raw)
    except ValueError:
        raise parse_error("invalid UTF-8 sequence in string") from None


def _unicode_escapes(raw: bytes, start: int, stop: int) -> tuple[str, int]:
    """Return the characters of adjacent escape sequences, and the position after them."""
    match = re.compile(_UNICODE_ESCAPES).match(raw, start, stop)
    if match is not None and match.end() - start > _LONGEST_ESCAPE:
        units = bytes.fromhex(match[0].replace(b"\\u", b"").decode("ascii"))
        try:
            text = units.decode("utf-16-be")
        except UnicodeDecodeError as error:
            # Half a pair: the other half may follow after `stop`.
            text = units[: error.start].decode("utf-16-be")
        invalid = re.search(INVALID_CHARACTER, text)
        if invalid is not None:
            text = text[: invalid.start()]
        if text:
            return text, start + 3 * len(text.encode("utf-16-be"))
    return _unicode_escape(raw, start)


def _unicode_escape(raw: bytes, start: int) -> tuple[str, int]:
    position = start + 6
    codepoint = _hex4(raw, start + 2)
    if 0xD800 <= codepoint <= 0xDBFF and raw[position : position + 2] == b"\\u":
        low = _hex4(raw, position + 2)
        if 0xDC00 <= low <= 0xDFFF:
            codepoint = 0x10000 + ((codepoint & 0x3FF) << 10) + (low & 0x3FF)
            position += 6
    if not is_valid_codepoint(codepoint):
        shown = decode_lossy(raw[start:position])
        raise parse_error(f"{shown} is not a valid Unicode character")
    return chr(codepoint), position


def _hex4(raw: bytes, start: int) -> int:
    digits = raw[start : start + 4]
    return int(digits, 16) if len(digits) == 4 and _HEX.issuperset(digits) else -1
