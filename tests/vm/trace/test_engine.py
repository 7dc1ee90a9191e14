"""What native threads record of themselves, on either accelerator."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from qmpserver.vm.trace.events import EVENTS
from qmpserver.vm.trace.tracer import Record, Tracer

if TYPE_CHECKING:
    from tests.conftest import Until
    from tests.vm.conftest import MakeRig


class Kept:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.dropped = 0

    def write(self, records: Iterable[Record], dropped: int) -> None:
        self.records.extend(records)
        self.dropped += dropped

    def close(self) -> None:
        pass


async def test_a_limit_from_beginning_to_end(make_rig: "MakeRig", until: "Until") -> None:
    rig = make_rig(ring=1024)
    kept = Kept()
    tracer = Tracer(kept)
    try:
        for event in tracer.events("*"):
            tracer.enable(event, True)
        rig.engine.cont()
        rig.advance(5000)
        rig.limit(1, 50)
        until(lambda: rig.engine.vcpu(1).throttle_count >= 5)
        rig.cancel(None)
        rig.park()
    finally:
        tracer.close()
    assert kept.dropped == 0
    told = {record.event.name: record for record in kept.records}
    assert told["dirtylimit_set_vcpu"].arguments[:2] == [1, 0]  # the cancel
    assert told["dirtylimit_state_initialize"].arguments[0] == 2
    assert "dirtylimit_state_finalize" in told

    counters = rig.engine.vcpu(1)
    sleeps = [r for r in kept.records if r.event.name == "dirtylimit_vcpu_execute"]
    assert len(sleeps) == counters.throttle_count
    assert all(record.arguments[0] == 1 for record in sleeps)
    assert sum(r.arguments[1] for r in sleeps) * 1000 <= counters.throttle_time
    full = [r for r in kept.records if r.event.name == "kvm_dirty_ring_full"]
    assert len(full) == sum(rig.engine.vcpu(index).full_exits for index in range(2))

    for thread_id in rig.engine.thread_ids():
        spans = sorted(
            (r.start, r.start + r.duration)
            for r in kept.records
            if r.thread_id == thread_id and r.event.span in ("run", "throttle")
        )
        assert len(spans) > 1
        # A vCPU does one thing at a time.
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


async def test_every_event_of_the_engine(make_rig: "MakeRig", until: "Until") -> None:
    kept = Kept()
    tracer = Tracer(kept)
    try:
        for event in tracer.events("*"):
            tracer.enable(event, True)
        rig = make_rig(ring=1024)
        rig.engine.cont()
        rig.advance(5000)
        rig.marked()
        rig.limit(None, 50)
        until(lambda: rig.engine.vcpu(0).throttle_count >= 2)
        rig.cancel(None)
        until(lambda: rig.engine.reaper().wakes > 0)
        rig.close()
    finally:
        tracer.close()
    assert kept.dropped == 0
    told = {name: [r for r in kept.records if r.event.name == name] for name in EVENTS}
    silent = {name for name, records in told.items() if not records}
    assert silent == {name for name in EVENTS if name.startswith("migrat")}

    reaper = [record.arguments[0] for record in told["kvm_dirty_ring_reaper"]]
    assert reaper[:3] == [0, 1, 2]
    assert reaper[-1] == 3
    assert [record.arguments[0] for record in told["kvm_dirty_ring_flush"]] == [0, 1]
    assert {record.arguments[0] for record in told["kvm_dirty_ring_reap_vcpu"]} == {0, 1}
    for record in told["kvm_dirty_ring_reap"]:
        pages, microseconds = record.arguments[:2]
        assert pages <= 2 * 1024
        assert microseconds * 1000 <= record.duration
    # A vCPU's ring is harvested within a turn of the same thread.
    turns = [(r.thread_id, r.start, r.start + r.duration) for r in told["kvm_dirty_ring_reap"]]
    for r in told["kvm_dirty_ring_reap_vcpu"]:
        assert any(
            t == r.thread_id and start <= r.start and r.start + r.duration <= end
            for t, start, end in turns
        )
    # The kick comes before the wake that it causes.
    [kick] = told["kvm_dirty_ring_reaper_kick"]
    assert any(r.arguments[0] == 2 and r.start >= kick.start for r in told["kvm_dirty_ring_reaper"])


async def test_nothing_is_recorded_unasked(make_rig: "MakeRig") -> None:
    rig = make_rig(ring=1024)
    kept = Kept()
    tracer = Tracer(kept)
    [event] = tracer.events("kvm_dirty_ring_full")
    tracer.enable(event, True)
    tracer.enable(event, False)
    rig.engine.cont()
    rig.advance(5000)
    rig.limit(None, 50)
    rig.park()
    tracer.close()
    assert kept.records == []
