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
    """Return the seconds of a duration, such as `30s`, `1.5s` or `300ms`.

    Raises:
        argparse.ArgumentTypeError: It is none, has no unit, or is 0.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms)", text, re.ASCII):
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
        if seconds > 0:
            return seconds
    raise argparse.ArgumentTypeError(
        f"'{text}' must be a duration above 0 with its unit, s or ms: 30s, 300ms"
    )
