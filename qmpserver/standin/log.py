"""A log file with the conversation of all clients, in the transcript format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qmpserver.files import open_text

if TYPE_CHECKING:
    from qmpserver.transcript.message import Message


class Log:
    """A transcript that is written as the conversation goes on.

    Args:
        path: The file.
        more: Append to the file, whose content is replaced otherwise.

    Attributes:
        failure: Why it is not complete, in one line; None if it is.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: str, *, more: bool = False) -> None:
        self.failure: str | None = None
        self._path = path
        self._file = open_text(path, 0 if more else os.O_TRUNC)
        self._file.reconfigure(errors="replace", line_buffering=True)

    def write(self, message: Message) -> None:
        """Write a message; the first error ends the log, and not the conversation."""
        if self.failure is not None or self._file.closed:
            return
        try:
            self._file.write(f"{message}\n")
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file; later messages are not written."""
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = f"log: {self._path}: {error.strerror}"
