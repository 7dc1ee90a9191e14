"""What native threads record of themselves, on either accelerator."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from qmpserver.trace.tracer import Record, Tracer

if TYPE_CHECKING:
    from tests.conftest import Until
    from tests.engine.conftest import MakeRig


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
        assert len(spans) > 5
        # A vCPU does one thing at a time.
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


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
