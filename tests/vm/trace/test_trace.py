"""Trace events: the native ring under many writers, switching by name, both ways to write."""

import asyncio
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.trace.events import BY_NUMBER, EVENTS
from qmpserver.vm.trace.tracer import Record, Tracer
from qmpserver.vm.trace.writers import ChromeWriter, LineWriter

SIZE: int = lib.TRACE_RECORDS


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """The ring is the process's: leave it as it was found."""
    yield
    records = ffi.new("struct trace_record[]", 64)
    while lib.trace_take(records, 64):
        pass


class Kept:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.dropped = 0
        self.arrived = asyncio.Event()
        self.closed = False

    def write(self, records: Iterable[Record], dropped: int) -> None:
        self.records.extend(records)
        self.dropped += dropped
        self.arrived.set()

    def close(self) -> None:
        self.closed = True


def write(number: int, *arguments: int, start: int = 0, duration: int = 0) -> None:
    padded = (*arguments, 0, 0, 0)[:3]
    lib.trace_write(number, start or time.monotonic_ns(), duration, *padded)


def test_every_event_is_known() -> None:
    assert sorted(BY_NUMBER) == list(range(lib.TRACE_EVENTS))
    for event in EVENTS.values():
        assert event.arguments <= lib.TRACE_ARGS
        assert event.text([0, 0, 0]) or not event.form


@pytest.mark.slow
def test_writers_on_many_threads_lose_only_what_is_counted() -> None:
    writers, each = 4, 3 * SIZE
    dropped_before = lib.trace_dropped()
    done = threading.Event()
    taken: list[tuple[int, int]] = []

    def read() -> None:
        records = ffi.new("struct trace_record[]", 1024)
        while True:
            last = done.is_set()
            count = lib.trace_take(records, 1024)
            for i in range(count):
                record = records[i]
                assert record.args[1] == record.args[0] ^ 0xABC  # nothing is half written
                taken.append((record.args[2], record.args[0]))
            if last and not count:
                return

    def run(writer: int) -> None:
        for number in range(each):
            lib.trace_write(0, 1, 0, number, number ^ 0xABC, writer)

    reader = threading.Thread(target=read)
    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(writers)]
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    dropped = lib.trace_dropped() - dropped_before
    assert len(taken) + dropped == writers * each
    for writer in range(writers):
        numbers = [number for who, number in taken if who == writer]
        assert numbers == sorted(set(numbers))  # in order, none twice


def test_full_and_no_reader() -> None:
    before = lib.trace_dropped()
    for number in range(SIZE + 5):
        lib.trace_write(1, 0, 0, number, 0, 0)
    assert lib.trace_dropped() - before == 5
    records = ffi.new("struct trace_record[]", SIZE)
    assert lib.trace_take(records, SIZE) == SIZE
    assert [records[i].args[0] for i in (0, SIZE - 1)] == [0, SIZE - 1]  # the oldest are kept
    lib.trace_write(1, 0, 0, 77, 0, 0)
    assert lib.trace_take(records, SIZE) == 1


async def test_switching() -> None:
    tracer = Tracer(Kept())
    try:
        ring = tracer.events("kvm_dirty_ring_*")
        assert [event.name for event in ring] == [
            name for name in EVENTS if name.startswith("kvm_dirty_ring_")
        ]
        for event in ring:
            tracer.enable(event, True)
        assert [e.name for e in EVENTS.values() if tracer.enabled(e)] == [e.name for e in ring]
        tracer.enable(ring[0], False)
        assert not tracer.enabled(ring[0])
        assert tracer.enabled(ring[1])
        assert tracer.events("no_such_*") == []
        with pytest.raises(KeyError):
            tracer.events("no_such")
    finally:
        tracer.close()


async def test_records_reach_the_writer() -> None:
    kept = Kept()
    tracer = Tracer(kept)
    event = EVENTS["dirtylimit_set_vcpu"]
    tracer.enable(event, True)
    before = time.time_ns()
    write(event.number, 3, 200)
    await asyncio.wait_for(kept.arrived.wait(), 10)
    [record] = kept.records
    assert record.event is event
    assert record.arguments[:2] == [3, 200]
    assert record.thread_id == threading.get_native_id()
    assert before - 1_000_000 <= record.start <= time.time_ns()
    for number in range(2000):
        write(event.number, number)
    tracer.close()  # writes all that is there
    assert [record.arguments[0] for record in kept.records[1:]] == list(range(2000))
    assert kept.closed
    assert kept.dropped == 0


def test_lines() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    start = 1_795_406_092_000_158_999
    writer.write(
        [
            Record(EVENTS["dirtylimit_set_vcpu"], 12, start, 0, [1, 200, 0]),
            Record(EVENTS["kvm_dirty_ring_reap"], 13, start, 2_000_000, [4032, 2000, 0]),
            Record(EVENTS["kvm_dirty_ring_reaper"], 13, start, 0, [2, 0, 0]),
        ],
        0,
    )
    writer.write([], 7)
    assert stream.getvalue().splitlines() == [
        "12@1795406092.000158:dirtylimit_set_vcpu CPU[1] set dirty page rate limit 200",
        "13@1795406092.002158:kvm_dirty_ring_reap reaped 4032 pages (took 2000 us)",
        "13@1795406092.000158:kvm_dirty_ring_reaper wakeup",
        "7 trace events were dropped: the ring was full",
    ]


def test_chrome(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    writer = ChromeWriter(path.open("w"))
    here = threading.get_native_id()
    writer.write([Record(EVENTS["kvm_run_exit"], here, 5_000_000, 2_500, [0, 31, 0])], 0)
    assert re.fullmatch(r"\[\n(\{.*\},\n)*\{.*\}", path.read_text())  # what a crash would leave
    writer.write([Record(EVENTS["kvm_dirty_ring_full"], here, 6_000_000, 0, [0, 0, 0])], 3)
    writer.close()
    name, run, full, dropped = json.loads(path.read_text())
    assert name["name"] == "thread_name"
    assert name["args"]["name"] == Path(f"/proc/self/task/{here}/comm").read_text().strip()
    assert (run["ph"], run["name"], run["ts"], run["dur"]) == ("X", "run", 5000.0, 2.5)
    assert run["args"] == {"event": "kvm_run_exit cpu_index 0, reason 31"}
    assert (full["ph"], full["name"], full["tid"]) == ("i", "kvm_dirty_ring_full", here)
    assert dropped["name"] == "3 events dropped"
    assert {event["pid"] for event in (name, run, full, dropped)} == {os.getpid()}
