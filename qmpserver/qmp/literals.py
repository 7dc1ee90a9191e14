"""Values of single tokens: strings, numbers, keywords; `parser` handles nesting."""

from qmpserver.qmp.errors import ParseError
from qmpserver.qmp.lexer import Token, TokenKind
from qmpserver.qmp.text import decode, decode_lossy, is_valid_codepoint

__all__ = ["Scalar", "parse_error", "scalar"]

Scalar = str | int | float | bool | None

_MESSAGE_ROOM = 1023
_KEYWORDS: dict[bytes, bool | None] = {b"true": True, b"false": False, b"null": None}
_ESCAPES = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_HEX = frozenset(b"0123456789abcdefABCDEF")
_INT64_MIN = -(1 << 63)
_UINT64_MAX = (1 << 64) - 1
# No 64-bit number is longer; longer ones need no big-number arithmetic.
_LONGEST_INTEGER = 20


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


def _string(raw: bytes) -> str:
    body = raw[1:-1]
    if b"\\" not in body:
        return _plain(body)
    parts: list[str] = []
    position = 1
    end = len(raw) - 1
    while position < end:
        backslash = raw.find(b"\\", position, end)
        if backslash < 0:
            parts.append(_plain(raw[position:end]))
            break
        parts.append(_plain(raw[position:backslash]))
        escape = raw[backslash + 1]
        if escape == ord("u"):
            character, position = _unicode_escape(raw, backslash)
            parts.append(character)
        elif escape in _ESCAPES:
            parts.append(_ESCAPES[escape])
            position = backslash + 2
        else:
            raise parse_error("invalid escape sequence in string")
    return "".join(parts)


def _plain(raw: bytes) -> str:
    try:
        return decode(raw)
    except ValueError:
        raise parse_error("invalid UTF-8 sequence in string") from None


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
