"""The client's side of the protocol: the bytes of a command, the messages of a server.

It does no I/O: clients of all kinds pass on the bytes that they have received. The words for a
server that does not speak QMP as it should are here, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE = 10 << 20  # bytes; QEMU's longest message is its schema, of 0.2 MB
HUNG_UP = "the server has hung up"
NO_GREETING = "no QMP greeting: it is no QMP server, or serves another client"
TOO_LONG = f"it sends a message of over {MAX_MESSAGE >> 20} MB"


class NotQmpError(Exception):
    """A server has sent something else than QMP, described by the text."""


def not_qmp(said: bytes | str) -> str:
    """Return the text that describes a server which sends `said`."""
    return f"it sent text that is not QMP: {said[:60].rstrip()!r}"


def encode(
    command: str, arguments: Mapping[str, object] | None = None, *, number: int | None = None
) -> bytes:
    """Return the bytes of a command, which may be sent later.

    Args:
        command: The command's name.
        arguments: The command's arguments.
        number: The `id`, which the answer repeats.
    """
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    if number is not None:
        message["id"] = number
    return json.dumps(message).encode()


class Incoming:
    """The messages among the bytes that a server sends: one a line."""

    def __init__(self) -> None:
        self._input = bytearray()
        self._searched = 0  # bytes of the input that hold no end of a line

    def __bool__(self) -> bool:
        """Return whether there are bytes that were not taken, of an incomplete message too."""
        return bool(self._input)

    def feed(self, data: bytes) -> None:
        """Add bytes that were received."""
        self._input += data

    def take(self) -> dict[str, Any] | None:
        """Remove the first message and return it; None if it is not complete.

        Raises:
            NotQmpError: It is no JSON object, or too long.
        """
        end = self._input.find(b"\n", self._searched) + 1
        if not end:
            self._searched = len(self._input)
            if self._searched > MAX_MESSAGE:
                raise NotQmpError(TOO_LONG)
            return None
        line = bytes(self._input[:end])
        del self._input[:end]
        self._searched = 0
        try:
            message = json.loads(line.decode())
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise NotQmpError(not_qmp(line))
        return message
