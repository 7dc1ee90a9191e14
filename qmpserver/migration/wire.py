"""Python's half of the wire format: control frames. README.md has the whole format.

The other frames carry RAM; native code writes and reads them (`accel/native/stream/wire.h`).
"""

from __future__ import annotations

import json
import struct
from typing import Any

VERSION = 1
CONTROL = 16
MAX_PAYLOAD = 64 << 20  # bytes
MAX_HELLO = 64 << 10  # bytes of the first message, which a stranger may have sent
MAX_REASON = 1000  # letters of a failure's reason, which a peer may have written
GONE = "the peer has closed the connection"
HEADER = struct.Struct("<IIQQ")  # type, count, a, b


class StreamError(Exception):
    """The peer sent something that is not the wire format, or nothing; the text tells which."""


def reason(error: Exception) -> str:
    """Return why a migration failed, as `error-desc` tells and as the peer is told."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def encode(kind: str, **members: Any) -> bytes:
    """Return a control frame: a JSON object whose "type" is `kind`."""
    payload = json.dumps({"type": kind, **members}, separators=(",", ":")).encode()
    return HEADER.pack(CONTROL, 0, len(payload), 0) + payload


def payload_size(header: bytes, most: int = MAX_PAYLOAD) -> int:
    """Return the bytes of payload that follow the header of a control frame.

    Raises:
        StreamError: It is no such header, or there are more than `most`.
    """
    type_, count, size, rest = HEADER.unpack(header)
    if type_ != CONTROL or count or rest:
        raise StreamError(f"expected a control frame, got the bytes {header[:8].hex()}")
    if not 2 <= size <= most:
        raise StreamError(f"a control frame of {size} bytes; 2 to {most} are allowed")
    return int(size)


def decode(payload: bytes) -> dict[str, Any]:
    """Return the message of a control frame; its "type" is a string.

    Raises:
        StreamError: The payload is no JSON object with a type.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise StreamError(f"a control frame that is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise StreamError('a control frame without a "type"')
    return message


def expect(message: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return `message` if its type is `kind`.

    Raises:
        StreamError: The peer sent an error, whose text is taken over, or another type.
    """
    if message["type"] == "error":
        raise StreamError(str(message.get("desc", "the peer gave no reason")))
    if message["type"] != kind:
        raise StreamError(f"expected the message {kind!r}, got {message['type']!r}")
    return message
