"""The enabled trace events, and the transfer of their records from the native ring to a writer."""

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
MOST_AT_ONCE = 512  # blocks the event loop for a few ms at most


class Record(NamedTuple):
    """One occurrence of an event."""

    event: TraceEvent
    thread_id: int
    start: int  # ns since 1970
    duration: int  # ns
    arguments: Sequence[int]


class Writer(Protocol):
    """A destination of records."""

    def write(self, records: Iterable[Record], dropped: int) -> None:
        """Write records, oldest first; `dropped` others were lost since the last call.

        Raises:
            OSError: The destination cannot be written to.
        """

    def close(self) -> None:
        """Finish writing; nothing is written afterwards.

        Raises:
            OSError: The destination cannot be written to.
        """


def is_pattern(name: str) -> bool:
    """Whether `name` is a pattern, which may match any number of events."""
    return "*" in name


def _fits(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern of QEMU: `*` is any text, `?` any character."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


class Tracer:
    """Enables events and passes their records to a writer. Belongs to the event loop's thread.

    The native ring is global: there may be one tracer at a time. While no event is enabled, the
    tracer does not run, and tracing has no cost.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._enabled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._records = ffi.new("struct trace_record[]", MOST_AT_ONCE)
        self._dropped: int = lib.trace_dropped()
        # Records carry CLOCK_MONOTONIC; users read the time of day.
        self._offset = time.time_ns() - time.monotonic_ns()

    def events(self, name: str) -> list[TraceEvent]:
        """Return the event of this name, or those that match a pattern with `*` (and `?`).

        Raises:
            KeyError: No event has this name.
        """
        if is_pattern(name):
            return [event for event in EVENTS.values() if _fits(event.name, name)]
        return [EVENTS[name]]

    def enabled(self, event: TraceEvent) -> bool:
        """Whether the event is enabled."""
        return bool(self._enabled >> event.number & 1)

    def enable(self, event: TraceEvent, on: bool) -> None:
        """Enable or disable an event."""
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
        """Disable all events: a full disk ends tracing, not the machine."""
        log.warning("cannot write trace events, all are disabled: %s", error.strerror)
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
        """Disable all events and write the remaining records."""
        lib.trace_enable(0)
        self._enabled = 0
        if self._timer is not None:
            self._timer.cancel()
        while self._take():
            pass
        try:
            self._writer.close()
        except OSError as error:  # closing may flush buffered records
            log.warning("cannot write trace events: %s", error.strerror)
