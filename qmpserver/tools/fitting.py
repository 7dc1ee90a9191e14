"""How much of the live view of `qmpctl top` a terminal has room for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qmpserver.tools.watching import COLUMNS, HISTORY

if TYPE_CHECKING:
    from collections.abc import Sequence

_PADDING = 2  # letters beside each cell
_WIDTHS = (0, 4, 6, 17, 5, 9, HISTORY)  # of the columns beside the server
_LEAST_SERVER = 12
_LEFT_OUT = ("course", "from", "throttled")  # in this order, where the terminal is too narrow
_ELSE = 4  # lines of the view that are neither servers' nor vCPUs'


def columns_for(width: int, server: int) -> tuple[list[int], int]:
    """Return the columns for a terminal of some width, and the width of the server's.

    Args:
        width: The width, in letters.
        server: Length of the longest name of a server.
    """
    columns = list(range(len(COLUMNS)))
    for name in (*_LEFT_OUT, ""):
        room = width - sum(_WIDTHS[index] + _PADDING for index in columns)
        if room >= min(server, _LEAST_SERVER) or not name:
            break
        columns.remove(COLUMNS.index(name))
    return columns, max(room, _LEAST_SERVER)


def lines_for(width: int, height: int, servers: Sequence[str], order: str) -> list[str]:
    """Return the lines above the table, which get a third of the terminal at most.

    They are cut if there is no room to wrap them.

    Args:
        width: The width of a line, in letters.
        height: The terminal's height, in lines.
        servers: A line on each server.
        order: A line on the order of rows.
    """
    room = max(1, (height - _ELSE) // 3)
    lines = [*servers, order]
    if sum(math.ceil(len(line) / width) for line in lines) <= room:
        return lines
    if len(servers) == room:
        lines = list(servers)
    elif len(servers) > room:
        lines = [*servers[: room - 1], f"{len(servers)} servers, {order}"]
    return [cut_right(line, width) for line in lines]


def cut_left(text: str, room: int) -> str:
    """Return the end of a text."""
    return text if len(text) <= room else f"…{text[-room + 1 :]}"


def cut_right(text: str, room: int) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= room else f"{text[: max(room, 1) - 1]}…"
