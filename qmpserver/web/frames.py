"""The check that a client masks its WebSocket frames, which aiohttp's reader does not make.

A proxy that takes a page's unmasked frames for requests could be made to cache answers of the
page's choice; hence the rule of RFC 6455, section 5.1.
"""

from __future__ import annotations

from typing import Protocol

_MASKED = 0x80
_LENGTH = 0x7F
_LONGER = {126: 2, 127: 8}  # bytes of a length that follows
_MASK_SIZE = 4

REFUSED = b"\xf0\x80\0\0\0\0"
"""A frame with reserved bits: a reader takes it for a protocol error."""


class Reader(Protocol):
    """A reader of frames, such as aiohttp's."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes; return whether this is the end, and the bytes after it."""

    def feed_eof(self) -> None:
        """Note that no more bytes will follow."""


class MaskedFrames:
    """A reader in front of another one, which gets all frames before the first unmasked one.

    In place of that one it gets `REFUSED`.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._header = b""  # the beginning of a header that is not complete
        self._left = 0  # bytes of the current frame that follow

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes, pass them on, and return the other reader's answer."""
        data = self._header + data
        self._header = b""
        position = min(self._left, len(data))
        self._left -= position
        while position < len(data):
            size = _frame_size(data, position)
            if size is None:
                self._header, data = data[position:], data[:position]
            elif size == 0:
                data = data[:position] + REFUSED
                break
            else:
                self._left = max(0, position + size - len(data))
                position += size
        return self._reader.feed_data(data) if data else (False, b"")

    def feed_eof(self) -> None:
        """Pass on the end."""
        self._reader.feed_eof()


def _frame_size(data: bytes, start: int) -> int | None:
    """Return the size of the frame at `start`; 0 if it is not masked, None if it is not known."""
    if len(data) < start + 2:
        return None
    second = data[start + 1]
    if not second & _MASKED:
        return 0
    length = second & _LENGTH
    longer = _LONGER.get(length, 0)
    begin = start + 2 + longer
    if len(data) < begin:
        return None
    if longer:
        length = int.from_bytes(data[start + 2 : begin], "big")
    return 2 + longer + _MASK_SIZE + length
