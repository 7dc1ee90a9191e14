"""Messages to the user on standard error, and the log of `-D`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

from qmpserver.cli.invocation import shown_name
from qmpserver.cli.repeats import RepeatLimit
from qmpserver.cli.settings import CommandLineError
from qmpserver.files import open_text

if TYPE_CHECKING:
    from io import TextIOWrapper

_LOGGERS = ("qmpserver", "asyncio")  # asyncio logs the exceptions of callbacks and lost tasks
_log = logging.getLogger("qmpserver")


def tell_terminal(label: str, path: str) -> None:
    """Print where a pseudo-terminal is, in QEMU's words, which programs read."""
    with contextlib.suppress(OSError, ValueError):
        print(f"char device redirected to {path} (label {label})", flush=True)


def show(text: str) -> None:
    """Write lines to standard error but not to the log; a missing or full one is ignored."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


class _Report:
    """Writes a message to standard error and to the log.

    Attributes:
        timestamps: Whether messages on standard error begin with the time, as with `-msg`.
        guest: The name that follows the time, if any.
    """

    timestamps = False
    guest: str | None = None

    def __call__(self, message: str) -> None:
        parts = [f"{shown_name(sys.argv[0])}:", message]
        if self.timestamps:
            if self.guest is not None:
                parts.insert(0, self.guest)
            seconds, rest = divmod(time.time_ns() // 1000, 1_000_000)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            parts.insert(0, f"{stamp}.{rest:06d}Z")
        show(" ".join(parts))
        _log.info(message, stacklevel=2)  # dropped without -D


report = _Report()


def report_crash(error: Exception) -> None:
    """Write an unexpected error with its traceback to standard error and to the log."""
    text = "".join(traceback.format_exception(error)).rstrip()
    show(f"{shown_name(sys.argv[0])}: internal error\n{text}")
    if _log.handlers:  # else logging would write it to standard error, too
        _log.critical("internal error", exc_info=error)


class _LogFile(logging.FileHandler):
    """A log file that ends with one message when it cannot be written, not a traceback a line.

    The writer of trace events may append to the same file.
    """

    def _open(self) -> TextIOWrapper:
        return open_text(self.baseFilename, os.O_TRUNC)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Handle an error while a line was written."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)
        show(f"{shown_name(sys.argv[0])}: cannot write the log, it ends here: {error.strerror}")


def limit_repeats() -> None:
    """Limit the warnings and errors that go to standard error, as they do without `-D`."""
    if logging.lastResort is not None:
        logging.lastResort = RepeatLimit(logging.lastResort)


def log_to(path: str) -> None:
    """Write the log to file `path`, which is emptied first.

    Raises:
        CommandLineError: The file cannot be opened.
    """
    try:
        handler = _LogFile(path)
    except OSError as error:
        raise CommandLineError(f"Error opening logfile {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    limited = RepeatLimit(handler)
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(limited)
    _log.setLevel(logging.INFO)
