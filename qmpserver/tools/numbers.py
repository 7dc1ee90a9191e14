"""Numbers from the command line, checked before they are used."""

from __future__ import annotations

import argparse
import contextlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(least: float, number: type[int] | type[float] = int) -> Callable[[str], Any]:
    """Return a function that reads a number; it raises ArgumentTypeError if it is below `least`."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if (value := number(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' must be a number >= {least}")

    return read


def duration(text: str) -> float:
    """Return the seconds in a text such as 30s or 300ms; raise ArgumentTypeError."""
    if (parts := re.fullmatch(r"(\d+(?:\.\d+)?)(m?s)", text, re.ASCII)) and float(parts[1]) > 0:
        return float(parts[1]) / (1000 if parts[2] == "ms" else 1)
    raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 30s or 300ms")
