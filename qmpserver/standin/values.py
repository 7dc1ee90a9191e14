"""Values that clients send: their checks, and their forms in the state."""

from __future__ import annotations

import base64
import re
from typing import Any

from qmpserver.keyval import IDENTIFIER
from qmpserver.qmp import CommandError

_BASE64 = re.compile(r"[A-Za-z0-9+/=\n]*")


def as_object(value: object) -> dict[str, Any]:
    """Return a value that is an object, and an empty object in place of another one."""
    return value if isinstance(value, dict) else {}


def check_id(name: str) -> None:
    """Check the id of a new backend.

    Raises:
        CommandError: It is none.
    """
    if not re.fullmatch(IDENTIFIER, name):
        raise CommandError("Parameter 'id' expects an identifier")


def decoded(text: str) -> bytes:
    """Return the bytes of a text in base 64; of an incomplete end, as in GLib, nothing.

    Raises:
        CommandError: It has other characters.
    """
    if not _BASE64.fullmatch(text):
        raise CommandError("Base64 data contains invalid characters")
    text = text.replace("\n", "")
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except ValueError:  # padding in the middle
        raise CommandError("Base64 data is not valid") from None
