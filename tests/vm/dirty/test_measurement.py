"""Dirty rates measured in each mode, against the guest's own counters."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.dirty.measurement import DirtyRate, Measurement, Mode
from qmpserver.vm.dirty.sampling import Sample
from qmpserver.vm.dirty.tracking import Tracking
from qmpserver.vm.dirty.worker import Worker

if TYPE_CHECKING:
    from tests.vm.conftest import MakeRig, Rig

pytestmark = pytest.mark.serial

MB = 1 << 20
CALC_MS = 500  # at least; on a busy machine it takes longer, and the guest may not run in it


@contextlib.asynccontextmanager
async def dirty_rate(rig: "Rig") -> AsyncIterator[DirtyRate]:
    worker = Worker("tracking")
    tracking = Tracking(rig.accel, worker)
    measuring = DirtyRate(rig.ram, rig.accel, tracking)
    try:
        yield measuring
    finally:
        await measuring.close()
        await tracking.close()
        await worker.close()


async def measure(
    measuring: DirtyRate, mode: Mode, calc_ms: int = CALC_MS, sample_pages: int | None = None
) -> Measurement:
    task = measuring.start(calc_ms, mode, sample_pages)
    with pytest.raises(ValueError, match="already being measured"):
        measuring.start(calc_ms, mode, sample_pages)
    under_way = measuring.last.status
    assert under_way == "measuring"
    await asyncio.wait_for(task, 20)
    assert measuring.last.status == "measured"
    return measuring.last


class Reading(NamedTuple):
    """The result of one reading of counters, and the guest's stores before and after it."""

    before: list[int]
    result: Any
    after: list[int]


def readings(patch: pytest.MonkeyPatch, rig: "Rig", reader: Any, name: str) -> list[Reading]:
    """Return a list that gets a reading for each call of the method `reader.name`."""
    made: list[Reading] = []
    read = getattr(reader, name)

    def noted() -> Any:
        before = rig.progress()
        result = read()
        made.append(Reading(before, result, rig.progress()))
        return result

    patch.setattr(reader, name, noted)
    return made


async def test_rings_agree_with_the_guest(
    make_rig: "MakeRig", monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(ring=1024, track=False, rate="40")
    rig.engine.cont()
    async with dirty_rate(rig) as measuring:
        # Tracking reads the counters too, on another engine than this one.
        engine = SimpleNamespace(pages=rig.engine.pages)
        accel = SimpleNamespace(dirty_ring_size=rig.accel.dirty_ring_size, engine=engine)
        monkeypatch.setattr(measuring, "_accel", accel)
        made = readings(monkeypatch, rig, engine, "pages")
        start = time.monotonic()
        last = await measure(measuring, "dirty-ring")
        seconds = time.monotonic() - start
        first, second = made
        for index, rate in enumerate(last.vcpu_rates):
            least = (second.before[index] - first.after[index]) * 4096 / MB / seconds
            most = (second.after[index] - first.before[index]) * 4096 / MB * 1000 / CALC_MS
            assert 0.9 * least - 1 <= rate <= 1.1 * most + 1
        assert last.rate == sum(last.vcpu_rates)
        assert len(last.vcpu_rates) == rig.vcpus
        assert last.sample_pages == 0


async def test_the_bitmap_counts_a_page_once(
    make_rig: "MakeRig", monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(ring=0, track=False, pages="1000")
    rig.engine.cont()
    async with dirty_rate(rig) as measuring:
        made = readings(monkeypatch, rig, rig.accel, "get_dirty_log")
        start = time.monotonic()
        last = await measure(measuring, "dirty-bitmap")
        seconds = time.monotonic() - start
        stored = sum(
            min(1000, after - before)
            for before, after in zip(made[0].after, made[1].before, strict=True)
        )
        pages = int.from_bytes(made[1].result, "little").bit_count()
        assert stored <= pages <= 2 * 1001  # one page has the vCPU's counter
        least, most = stored * 4096 / MB / seconds, 2 * 1001 * 4096 / MB * 1000 / CALC_MS
        assert least - 1 <= last.rate <= most + 1
        assert last.vcpu_rates == []
        rig.park()
        assert (await measure(measuring, "dirty-bitmap", 50)).rate == 0


async def test_each_reader_of_the_log_gets_all_pages(make_rig: "MakeRig") -> None:
    """Also those that another one has read since; the accelerator tells each page once."""
    rig = make_rig(ring=0, pages="1000")
    async with dirty_rate(rig) as measuring:
        read = measuring._tracking.read_log
        for reader in ("first", "second"):
            read(reader)
        rig.engine.cont()
        rig.advance(1000)
        rig.park()
        logs = [read("first"), read("second"), read("first"), read("second")]
        assert [any(log) for log in logs] == [True, True, False, False]
        assert logs[0] == logs[1]


async def test_sampling_sees_what_share_has_changed(
    make_rig: "MakeRig", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of RAM is stored to; 1024 pages tell that within a few standard errors of 1.6 %."""
    rig = make_rig(track=False, pages="4096", ram=64 * MB)
    rig.engine.cont()
    shares: list[float] = []

    def changed(sample: Sample) -> float:
        rig.advance(4096)
        shares.append(count_changed(sample))
        return shares[-1]

    count_changed = Sample.changed
    monkeypatch.setattr(Sample, "changed", changed)
    async with dirty_rate(rig) as measuring:
        start = time.monotonic()
        last = await measure(measuring, "page-sampling", sample_pages=16384)
        seconds = time.monotonic() - start
        assert shares == [pytest.approx(0.5, abs=0.1)]
        assert shares[0] * 64 / seconds - 1 <= last.rate <= shares[0] * 64 * 1000 / CALC_MS + 1
        assert last.sample_pages == 16384
        assert not rig.engine.tracking
        rig.park()
        monkeypatch.undo()
        assert (await measure(measuring, "page-sampling")).rate == 0


def test_a_sample_is_fair() -> None:
    """The first tenth of RAM has changed, then all but it, by one bit in each page."""
    ram = Ram(64 * MB)
    try:
        sample = Sample(ram, 16384)
        assert sample.changed() == 0
        tenth = ram.pages // 10
        for page in range(tenth):
            ram.buffer[page * 4096 + page % 4096] ^= 1 << page % 8
        assert sample.changed() == pytest.approx(0.1, abs=0.05)
        for page in range(ram.pages):
            ram.buffer[page * 4096 + page % 4096] ^= 1 << page % 8
        assert sample.changed() == pytest.approx(0.9, abs=0.05)
        for page in range(tenth, ram.pages):
            ram.buffer[page * 4096 + page % 4096] ^= 1 << page % 8
        assert sample.changed() == 0
    finally:
        ram.close()


async def test_refusals(make_rig: "MakeRig") -> None:
    wrong: list[tuple[int, Mode]] = [(1024, "dirty-bitmap"), (0, "dirty-ring")]
    for ring, mode in wrong:
        rig = make_rig(ring=ring, track=False)
        async with dirty_rate(rig) as measuring:
            with pytest.raises(ValueError, match=f"^mode {mode} is not enabled, use other method"):
                measuring.start(100, mode, None)
            for pages in (127, 16385):
                with pytest.raises(ValueError, match=r"^sample-pages is out of range\[128, 16384"):
                    measuring.start(100, "page-sampling", pages)
            with pytest.raises(ValueError, match=r"^sample-pages is used only in page-sampling"):
                measuring.start(100, "dirty-ring", 512)
            for milliseconds in (49, 60_001):
                with pytest.raises(ValueError, match=r"out of range \[50ms, 60000ms\]"):
                    measuring.start(milliseconds, "page-sampling", None)
            assert measuring.last.status == "unstarted"


async def test_given_up_at_the_end(make_rig: "MakeRig") -> None:
    modes: list[Mode] = ["dirty-ring", "page-sampling"]
    for mode in modes:
        rig = make_rig(ring=1024, track=False, ram=256 * MB)
        async with dirty_rate(rig) as measuring:
            measuring.start(60_000, mode, None)
            await asyncio.sleep(0)
        rig.close()


async def test_a_bug_ends_the_measurement(
    make_rig: "MakeRig", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(ring=1024, track=False)
    async with dirty_rate(rig) as measuring:
        monkeypatch.setattr(rig.engine, "pages", lambda: 1 / 0)
        await measuring.start(50, "dirty-ring", None)
        assert measuring.last.status == "unstarted"
        assert "ZeroDivisionError" in caplog.text
        measuring.start(50, "page-sampling", None)
