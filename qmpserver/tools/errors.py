"""What ends `qmpctl` with a line of text and an exit status to script with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE = 10 << 20  # bytes; QEMU's longest is its schema, of 0.2 MB
HUNG_UP = "the server has hung up"
NO_GREETING = "no QMP greeting: it is no QMP server, or serves another client"
TOO_LONG = f"it sends a message of over {MAX_MESSAGE >> 20} MB"


class QmpctlError(Exception):
    """It can't be done; the text says why."""

    status = 1


class UsageError(QmpctlError):
    """What was asked for makes no sense."""

    status = 2


class ServerError(QmpctlError):
    """The server can't be reached, or does not speak QMP as it should."""

    status = 3


def not_qmp(said: bytes | str) -> str:
    """Return what to say of a server that sends this."""
    return f"what it sends is not QMP: {said[:60].rstrip()!r}"


@contextlib.contextmanager
def sensible(who: object, command: str) -> Iterator[None]:
    """Raise ServerError where what is made of a server's answer shows that it has another shape."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__} {error}"
        raise ServerError(f"{who}: its answer to {command} makes no sense: {why}") from error
