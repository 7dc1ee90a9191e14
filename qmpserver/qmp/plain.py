"""Plain JSON, without escapes, to a value."""

import json
from typing import Any

__all__ = ["loads"]

_MAX_DIGITS = 18  # any integer of so many, with its sign, fits 64 bits


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_decode = json.JSONDecoder(parse_int=_integer).raw_decode


def loads(text: bytes) -> Any:
    """Return the value of ASCII `text`, which has no space before it; long integers are doubles.

    Raises:
        ValueError: It is not JSON, or nested too deeply for Python's stack.
    """
    string = text.decode("ascii")
    try:
        value, end = _decode(string)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end < len(string) and string[end:].strip(" \t\r"):
        raise ValueError("more than one value")
    return value
