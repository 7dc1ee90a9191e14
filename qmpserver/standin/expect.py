"""Comparing the commands that clients send with those that a scenario expects."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.standin.parts import Expectation
    from qmpserver.transcript.message import Message

SHOWN_COMMANDS = 1000
SHOWN_ARGUMENTS = 20
SHOWN_LETTERS = 500
"""Of a command's name, or of its arguments: a client may send as many as it likes."""


class Expectations:
    """The expectations of a scenario, and how far they are met.

    Commands are counted as they come and not kept.

    Args:
        expected: The expectations.
        ordered: Whether the first command that meets an expectation must come after the first that
            meets the one before.
    """

    def __init__(self, expected: Sequence[Expectation], *, ordered: bool) -> None:
        self._counts = [_Count(one) for one in expected]
        self._ordered = ordered
        self._order = [one for one in expected if one.least]
        self._in_order = 0  # how many of _order were met in order
        self._names: deque[str] = deque(maxlen=SHOWN_COMMANDS)
        self._commands = 0

    def take(self, message: Message) -> None:
        """Take a message of the conversation."""
        name = message.command
        if name is None:
            return
        arguments = message.member("arguments")
        if not isinstance(arguments, dict):  # clients may send anything
            arguments = {}
        self._commands += 1
        self._names.append(shortened(name))
        for count in self._counts:
            count.take(name, arguments)
        if self._in_order < len(self._order) and self._order[self._in_order].fits(name, arguments):
            self._in_order += 1

    def unmet(self) -> list[str]:
        """Return the expectations that are not met, and the commands that came, as text."""
        lines = [line for count in self._counts for line in count.unmet()]
        if not lines and self._ordered and self._in_order < len(self._order):
            before, one = self._order[self._in_order - 1], self._order[self._in_order]
            lines.append(f"expected {one} after {before}; it was not sent after that")
        if lines:
            names = list(self._names)
            earlier = self._commands - len(names)
            cut = [f"({earlier} commands before)"] if earlier else []
            lines.append(f"commands sent: {', '.join(cut + names) or 'none'}")
        return lines


class _Count:
    """One expectation, the number of commands that met it, and others of the same name."""

    def __init__(self, expectation: Expectation) -> None:
        self._expectation = expectation
        self._count = 0
        self._others: deque[str] = deque(maxlen=SHOWN_ARGUMENTS)

    def take(self, name: str, arguments: dict[str, Any]) -> None:
        if self._expectation.fits(name, arguments):
            self._count += 1
            self._others.clear()
        elif name == self._expectation.command and not self._count:
            self._others.append(shortened(_written(arguments)))

    def unmet(self) -> Iterator[str]:
        one, count = self._expectation, self._count
        if count < one.least or (one.most is not None and count > one.most):
            sent = {0: "never sent", 1: "sent once"}.get(count, f"sent {count} times")
            yield f"expected {one} {_times(one)}; it was {sent}"
            if self._others:
                yield f"  sent with other arguments: {'; '.join(self._others)}"


def shortened(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."


def _written(arguments: dict[str, Any]) -> str:
    try:
        return json.dumps(arguments)
    except RecursionError:
        return "{...}"


def _times(one: Expectation) -> str:
    if one.most is None:
        return "at least once" if one.least == 1 else f"at least {one.least} times"
    if one.least == one.most:
        return {0: "never", 1: "once"}.get(one.least, f"{one.least} times")
    return f"{one.least} to {one.most} times"
