"""Which trace events are on, and getting what they record out of the native ring."""

from __future__ import annotations

import asyncio
import logging
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.trace.events import BY_NUMBER, EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qmpserver.vm.trace.events import TraceEvent

log = logging.getLogger(__name__)

INTERVAL_S = 0.1
MOST_AT_ONCE = 512  # so that the event loop is not kept for more than a few ms


class Record(NamedTuple):
    """An event that has happened."""

    event: TraceEvent
    thread_id: int
    start: int  # ns since 1970
    duration: int  # ns
    arguments: Sequence[int]


class Writer(Protocol):
    """Where records go."""

    def write(self, records: Iterable[Record], dropped: int) -> None:
        """Take some records, oldest first; `dropped` more than these were lost before."""

    def close(self) -> None:
        """Take no more."""


def is_pattern(name: str) -> bool:
    """Whether `name` stands for any number of events."""
    return "*" in name


def _fits(name: str, pattern: str) -> bool:
    """Whether a name is ``*``, any letters, ``?``, any letter, and itself otherwise."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


class Tracer:
    """Switches events and passes what they record to a writer. Belongs to the event loop's thread.

    The native ring is the process's: there may be one tracer at a time. While no event is on it
    does nothing, and tracing costs nothing.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._enabled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._records = ffi.new("struct trace_record[]", MOST_AT_ONCE)
        self._dropped: int = lib.trace_dropped()
        # Records are stamped with CLOCK_MONOTONIC, people read the time of day.
        self._offset = time.time_ns() - time.monotonic_ns()

    def events(self, name: str) -> list[TraceEvent]:
        """Return the events that a name, or a pattern with ``*``, and ``?`` then, stands for.

        Raises:
            KeyError: There is no event of this name.
        """
        if is_pattern(name):
            return [event for event in EVENTS.values() if _fits(event.name, name)]
        return [EVENTS[name]]

    def enabled(self, event: TraceEvent) -> bool:
        """Whether the event is on."""
        return bool(self._enabled >> event.number & 1)

    def enable(self, event: TraceEvent, on: bool) -> None:
        """Switch an event on or off."""
        bit = 1 << event.number
        self._enabled = self._enabled | bit if on else self._enabled & ~bit
        lib.trace_enable(self._enabled)
        if self._enabled and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._drain)

    def _drain(self) -> None:
        full = self._take() == MOST_AT_ONCE
        loop = asyncio.get_running_loop()
        if full:
            self._timer = loop.call_later(0, self._drain)
        elif self._enabled:
            self._timer = loop.call_later(INTERVAL_S, self._drain)
        else:
            self._timer = None

    def _take(self) -> int:
        taken: int = lib.trace_take(self._records, MOST_AT_ONCE)
        dropped = lib.trace_dropped()
        if taken or dropped != self._dropped:
            lost, self._dropped = dropped - self._dropped, dropped
            try:
                self._writer.write([self._record(self._records[i]) for i in range(taken)], lost)
            except OSError as error:
                self._give_up(error)
        return taken

    def _give_up(self, error: OSError) -> None:
        """Switch all off: nobody asked for trace events at the price of the machine."""
        log.warning("trace events can't be written, all are off now: %s", error.strerror)
        lib.trace_enable(0)
        self._enabled = 0

    def _record(self, native: ffi.CData) -> Record:
        return Record(
            BY_NUMBER[native.event],
            native.tid,
            native.start_ns + self._offset,
            native.duration_ns,
            list(native.args),
        )

    def close(self) -> None:
        """Switch all off and write what there is; threads that still run record no more."""
        lib.trace_enable(0)
        self._enabled = 0
        if self._timer is not None:
            self._timer.cancel()
        while self._take():
            pass
        try:
            self._writer.close()
        except OSError as error:  # what it has kept until now does not fit either
            log.warning("trace events can't be written: %s", error.strerror)
