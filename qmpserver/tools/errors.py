"""Errors that end `qmpctl` with a line of text and an exit status to script with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class QmpctlError(Exception):
    """The command failed; the text says why."""

    status = 1


class UsageError(QmpctlError):
    """The command line makes no sense."""

    status = 2


class ServerError(QmpctlError):
    """The server cannot be reached, or does not speak QMP as it should."""

    status = 3


class RefusedError(QmpctlError):
    """The server answered a command with an error.

    Args:
        error_class: The error's class.
        desc: Its description.
        place: The server and the command; the text of the error does not have it.
    """

    def __init__(self, error_class: str, desc: str, place: str = "") -> None:
        super().__init__(f"{error_class}: {desc}")
        self.error_class = error_class
        self.desc = desc
        self.place = place


@contextlib.contextmanager
def sensible(server: object, command: str) -> Iterator[None]:
    """Raise ServerError if an answer of `server` to `command` does not have the expected shape."""
    try:
        yield
    except (
        AttributeError,
        LookupError,
        RecursionError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        why = f"{type(error).__name__} {error}"
        raise ServerError(f"{server}: its answer to {command} makes no sense: {why}") from error


@contextlib.contextmanager
def needs(user: str, package: str, extra: str) -> Iterator[None]:
    """Raise QmpctlError if `package` cannot be imported; `extra` is the one that installs it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        install = f"pip install 'qmpserver[{extra}]'"
        raise QmpctlError(f"{user} needs {package}: {install}") from None
