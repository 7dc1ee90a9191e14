"""The text of `-help`, and the lists for `help` as the value of an option."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpserver._version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qmpserver.cli.table import Option

WIDTH = 80
INDENT = " " * 8


def is_help(value: str) -> bool:
    """Return whether an option's value asks for a list of its values."""
    return value in ("help", "?")


def listing(heading: str, names: Iterable[str], *, indent: str = "  ") -> str:
    """Return a list of an option's values."""
    return "\n".join((heading, *(f"{indent}{name}" for name in names)))


def help_text(options: Mapping[str, Option]) -> str:
    """Return the list of options with their syntax and descriptions, in lines of 80 columns."""
    import textwrap  # only here: its import takes a while

    lines = [f"qmpserver version {VERSION}", "usage: qmpserver [options]", ""]
    for name, option in options.items():
        lines += _fold(f"-{name} {option.argument}".rstrip())
        lines += textwrap.wrap(
            option.text,
            WIDTH,
            initial_indent=INDENT,
            subsequent_indent=INDENT,
            break_on_hyphens=False,
            break_long_words=False,
        )
    lines += [
        "",
        "-x and --x are the same. Without -accel: kvm with a dirty ring, else soft.",
        "QEMU options without an effect here are accepted: -nodefaults, -display none.",
    ]
    return "\n".join(lines)


def _fold(usage: str) -> list[str]:
    """Break a line that is too long in front of optional parts."""
    lines = [""]
    for part in re.split(r"(?=\[,)", usage):
        if len(lines[-1] + part) > WIDTH:
            lines.append(INDENT[1:])
        lines[-1] += part
    return lines
