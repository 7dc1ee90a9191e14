"""Numbers from the command line, refused before anything is done with them."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(least: float, number: type[int] | type[float] = int) -> Callable[[str], Any]:
    """Return what reads a number, and raises ArgumentTypeError where it is less or none."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if (value := number(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is no number from {least} on")

    return read
