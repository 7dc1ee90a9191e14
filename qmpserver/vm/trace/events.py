"""The trace events there are. Names and texts are QEMU's, so that its users find what they know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpserver.vm.accel.native._native import lib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One kind of event.

    `form` is what its arguments are put into by ``%``; an argument that has `words` is told by
    them. `span` says what lasts as long as the event; without, it is over at once.
    """

    number: int
    name: str
    form: str
    arguments: int
    words: Sequence[str] = ()
    span: str = ""

    def text(self, arguments: Sequence[int]) -> str:
        """Say in words what has happened."""
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
)

EVENTS: Mapping[str, TraceEvent] = {event.name: event for event in _ALL}
BY_NUMBER: Mapping[int, TraceEvent] = {event.number: event for event in _ALL}
