"""The trace events. Names and texts are QEMU's where QEMU has the event.

To add a trace event:

1. Add `TRACE_NAME` to `enum trace_event` in `accel/native/trace.h`, before `TRACE_EVENTS`. There
   may be at most 32 events (the enabled ones are a 32-bit mask), with at most `TRACE_ARGS` (3)
   arguments each.
2. Add a row to `_ALL` here; the name is that of the constant, in lower case.
3. In C call `trace_now(TRACE_NAME, arg0, arg1, arg2)` where it happens; for an event with a span
   call `trace_start` at its start and `trace_since` at its end. The native thread does not wait:
   records go to a ring. In Python call `record(EVENTS["name"], arg0)`.
4. Rebuild the extension. `tests/vm/trace/test_trace.py` compares both lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qmpserver.migration.status import STATUSES
from qmpserver.vm.accel.native._native import lib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TraceEvent(NamedTuple):
    """One kind of event.

    Attributes:
        number: Its value in `enum trace_event`.
        name: QEMU's name.
        form: The text, a `%` format of the arguments.
        arguments: The number of arguments.
        words: Names for the values of the only argument, if it is an enumeration.
        span: The name of the activity that an event with a duration covers; empty for others.
    """

    number: int
    name: str
    form: str
    arguments: int
    words: Sequence[str] = ()
    span: str = ""

    def text(self, arguments: Sequence[int]) -> str:
        """Return the event's text for these arguments."""
        if self.words:
            return self.form % self.words[arguments[0]]
        return self.form % tuple(arguments[: self.arguments])


def _event(name: str, form: str, *, words: Sequence[str] = (), span: str = "") -> TraceEvent:
    number = getattr(lib, f"TRACE_{name.upper()}")
    return TraceEvent(number, name, form, form.count("%"), words, span)


_ALL = (
    _event("kvm_run_exit", "cpu_index %d, reason %d", span="run"),
    _event("kvm_dirty_ring_full", "vcpu %d"),
    _event("kvm_dirty_ring_reap_vcpu", "vcpu %d", span="harvest"),
    _event("kvm_dirty_ring_reap", "reaped %d pages (took %d us)", span="reap"),
    _event("kvm_dirty_ring_reaper", "%s", words=("init", "wait", "wakeup", "exit")),
    _event("kvm_dirty_ring_reaper_kick", "%s", words=("dirty limit cancelled",)),
    _event("kvm_dirty_ring_flush", "%d"),
    _event("dirtylimit_state_initialize", "dirtylimit state initialize: max cpus %d"),
    _event("dirtylimit_state_finalize", ""),
    _event(
        "dirtylimit_throttle_pct",
        "CPU[%d] throttle percent: %d, throttle adjust time %d us",
    ),
    _event("dirtylimit_set_vcpu", "CPU[%d] set dirty page rate limit %d"),
    _event("dirtylimit_vcpu_execute", "CPU[%d] sleep %d us", span="throttle"),
    _event("migrate_set_state", "new state %s", words=STATUSES),
    _event("migration_bitmap_sync_end", "dirty_pages %d"),
)

EVENTS: Mapping[str, TraceEvent] = {event.name: event for event in _ALL}
BY_NUMBER: Mapping[int, TraceEvent] = {event.number: event for event in _ALL}


def record(event: TraceEvent, argument: int) -> None:
    """Record an event of one argument that happens now, if it is enabled. Any thread."""
    lib.trace_python(event.number, argument)
