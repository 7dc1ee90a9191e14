"""Plain JSON, without escapes, to a value: with orjson, or with the standard library.

Both refuse the same texts.  The parser asks neither for the value of a double.
"""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["loads", "stdlib_loads"]

_MAX_DIGITS = 18  # any integer of so many, with its sign, fits 64 bits


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_decode = json.JSONDecoder(parse_int=_integer).decode


def stdlib_loads(text: bytes) -> Any:
    """Return the value of ASCII `text`, as orjson does; long integers are doubles.

    Raises:
        ValueError: It is not JSON, or nested too deeply for Python's stack.
    """
    try:
        return _decode(text.decode("ascii"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


loads: Callable[[bytes], Any]
try:
    import orjson
except ImportError:  # it is compiled, and not for every system
    loads = stdlib_loads
else:
    loads = orjson.loads
