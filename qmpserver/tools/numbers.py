"""Numbers from the command line, checked before they are used."""

from __future__ import annotations

import argparse
import contextlib
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
