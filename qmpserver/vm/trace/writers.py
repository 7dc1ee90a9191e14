"""Writers of trace records: lines of text, or Chrome's trace event JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpserver.vm.trace.tracer import Record


class LineWriter:
    """Writes one line per event, as QEMU's `log` backend does: `THREAD@SECONDS:NAME TEXT`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, records: Iterable[Record], dropped: int) -> None:
        """Write records; the time of an event with a duration is that of its end."""
        lines = []
        if dropped:
            lines.append(f"{dropped} trace events were dropped: the ring was full\n")
        for event, thread_id, start, duration, arguments in records:
            seconds, rest = divmod(start + duration, 1_000_000_000)
            text = event.text(arguments)
            lines.append(f"{thread_id}@{seconds}.{rest // 1000:06d}:{event.name} {text}\n")
        self._stream.write("".join(lines))
        self._stream.flush()

    def close(self) -> None:
        """Close the stream, unless it is standard error."""
        if self._stream is not sys.stderr:
            self._stream.close()


class ChromeWriter:
    """Writes Chrome's trace event format, which Perfetto opens: spans and instants by thread.

    The JSON array is not terminated before `close`; readers accept it without its end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._file = stream
        self._file.write("[")
        self._separator = "\n"
        self._threads: set[int] = set()

    def write(self, records: Iterable[Record], dropped: int) -> None:
        """Write records."""
        for event, thread_id, start, duration, arguments in records:
            if thread_id not in self._threads:
                self._threads.add(thread_id)
                self._put(
                    ph="M", name="thread_name", tid=thread_id, args={"name": _name(thread_id)}
                )
            text = {"event": f"{event.name} {event.text(arguments)}".rstrip()}
            at = start / 1000  # us
            if event.span:
                self._put(
                    ph="X", name=event.span, tid=thread_id, ts=at, dur=duration / 1000, args=text
                )
            else:
                self._put(ph="i", s="t", name=event.name, tid=thread_id, ts=at, args=text)
        if dropped:
            self._put(ph="i", s="p", name=f"{dropped} events dropped", tid=0, ts=0)
        self._file.flush()

    def _put(self, **members: object) -> None:
        self._file.write(self._separator + json.dumps({"pid": os.getpid(), **members}))
        self._separator = ",\n"

    def close(self) -> None:
        """Terminate the array and close the file."""
        self._file.write("\n]\n")
        self._file.close()


def _name(thread_id: int) -> str:
    try:
        # As bytes: a text file would import its codec, for which no descriptor may be left.
        with open(f"/proc/self/task/{thread_id}/comm", "rb") as file:
            return file.read().decode().strip()
    except OSError:
        return str(thread_id)
