"""Values that clients send, as the state keeps them."""

from __future__ import annotations

from typing import Any


def as_object(value: object) -> dict[str, Any]:
    """Return a value that is an object, and an empty object in place of another one."""
    return value if isinstance(value, dict) else {}
