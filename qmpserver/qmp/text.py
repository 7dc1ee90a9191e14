"""Strings as QEMU reads and writes them: "modified UTF-8" and its valid code points.

Modified UTF-8 is UTF-8 in which U+0000 is the two bytes C0 80: no string
contains a zero byte.  Noncharacters of Unicode are refused like surrogates.
"""

import re

__all__ = ["INVALID_CHARACTER", "decode", "decode_lossy", "is_valid_codepoint"]

# All characters that a string can contain in Python but not in QEMU: a regular expression, which is
# compiled when a client sends the first character that is not ASCII.
INVALID_CHARACTER = (
    "[\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)

_NUL = b"\xc0\x80"


def is_valid_codepoint(codepoint: int) -> bool:
    """Return whether QEMU allows `codepoint` in a string."""
    return 0 <= codepoint <= 0x10FFFF and not re.match(INVALID_CHARACTER, chr(codepoint))


def decode(raw: bytes) -> str:
    """Decode modified UTF-8.

    Args:
        raw: Bytes without a zero byte.

    Raises:
        ValueError: `raw` is not valid.
    """
    text = raw.decode("ascii") if raw.isascii() else raw.replace(_NUL, b"\0").decode()
    if not text.isascii() and re.search(INVALID_CHARACTER, text):
        raise ValueError("noncharacter in string")
    return text


def decode_lossy(raw: bytes) -> str:
    """Decode `raw` as QEMU prints it: up to a zero byte, errors replaced by U+FFFD.

    Each invalid sequence becomes one replacement character; it is as long as its
    first byte announces, or ends before the first byte that is no continuation.
    """
    raw = raw.partition(b"\0")[0]
    if raw.isascii():
        return raw.decode("ascii")
    text: list[str] = []
    position = 0
    while position < len(raw):
        length = _sequence_length(raw, position)
        try:
            text.append(decode(raw[position : position + length]))
        except ValueError:
            text.append("\ufffd")
        position += length
    return "".join(text)


def _sequence_length(raw: bytes, start: int) -> int:
    first = raw[start]
    if first < 0xC0 or first >= 0xFE:
        return 1
    # The number of leading ones in the first byte is that of the bytes, at most six.
    announced = 8 - (first ^ 0xFF).bit_length()
    length = 1
    while length < announced and start + length < len(raw) and raw[start + length] & 0xC0 == 0x80:
        length += 1
    return length
