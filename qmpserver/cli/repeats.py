"""The limit of log lines that repeat: no guest and no client can fill a disk with them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

BURST = 20  # lines
WINDOW_S = 10.0

_Place = tuple[str, int, type[BaseException] | None]


class _Window:
    """The lines of one place in the code since its first one.

    Attributes:
        end: When they are counted anew, of the monotonic clock.
        written: The number of those written.
        left_out: The number of the others.
        example: Logger, level and text of one left out; not the record, which may hold much memory.
    """

    __slots__ = ("end", "example", "left_out", "written")

    def __init__(self, end: float) -> None:
        self.end = end
        self.written = 0
        self.left_out = 0
        self.example = ("", 0, "")


class RepeatLimit(logging.Handler):
    """Passes records on to another handler: of each place in the code `BURST` in `WINDOW_S`.

    Records with exceptions of different classes are of different places. The number of those that
    were left out is logged when the time is over: by a timer on the event loop's thread, else with
    the next record or at the end.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._windows: dict[_Place, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on, or count it."""
        if record.levelno < self._target.level:
            return
        now = time.monotonic()
        self._close_windows(now)
        window = self._windows.setdefault(_place(record), _Window(now + WINDOW_S))
        if window.written < BURST:
            window.written += 1
            self._target.handle(record)
        elif window.left_out:
            window.left_out += 1
        else:
            window.left_out = 1
            self._begin_to_leave_out(record, window, now)

    def close(self) -> None:
        """Log the numbers so far, and close the other handler."""
        self._close_windows()
        self._target.close()
        super().close()

    def _begin_to_leave_out(self, record: logging.LogRecord, window: _Window, now: float) -> None:
        try:
            text = record.getMessage().partition("\n")[0]
        except Exception:
            self.handleError(record)
            text = str(record.msg)
        window.example = record.name, record.levelno, text
        with contextlib.suppress(RuntimeError):  # no event loop in this thread
            loop = asyncio.get_running_loop()
            loop.call_later(window.end - now, self._time_out, window.end)

    def _time_out(self, now: float) -> None:
        self.acquire()
        try:
            self._close_windows(now)
        finally:
            self.release()

    def _close_windows(self, now: float = float("inf")) -> None:
        """Forget the places whose time is over at `now`, and log what they have left out."""
        over = [place for place, window in self._windows.items() if window.end <= now]
        for window in [self._windows.pop(place) for place in over]:
            if window.left_out:
                name, level, text = window.example
                words = "%d more lines were left out, such as: %s"
                arguments = (window.left_out, text)
                self._target.handle(logging.LogRecord(name, level, "", 0, words, arguments, None))


def _place(record: logging.LogRecord) -> _Place:
    return record.pathname, record.lineno, record.exc_info[0] if record.exc_info else None
