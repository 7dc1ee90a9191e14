"""Measurement of the dirty rate on demand: by rings, by bitmap or by sampling."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Literal

from qmpserver.vm.dirty.rate import mb_per_s
from qmpserver.vm.dirty.sampling import Sample
from qmpserver.vm.dirty.worker import Worker

if TYPE_CHECKING:
    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.accel.memory import Ram
    from qmpserver.vm.dirty.tracking import Tracking

log = logging.getLogger(__name__)

Mode = Literal["page-sampling", "dirty-ring", "dirty-bitmap"]
Status = Literal["unstarted", "measuring", "measured"]

MIN_CALC_MS, MAX_CALC_MS = 50, 60_000
MIN_SAMPLE_PAGES, MAX_SAMPLE_PAGES = 128, 16384
DEFAULT_SAMPLE_PAGES = 512


class Measurement:
    """The parameters and the result of a measurement."""

    def __init__(
        self, mode: Mode = "page-sampling", calc_ms: int = 0, sample_pages: int = 0
    ) -> None:
        self.mode = mode
        self.status: Status = "unstarted"
        self.start_time = 0  # s since 1970
        self.calc_ms = calc_ms
        self.sample_pages = sample_pages  # per GiB
        self.rate = 0  # MB/s of all vCPUs
        self.vcpu_rates: list[int] = []  # MB/s of each vCPU, in mode dirty-ring


class DirtyRate:
    """The implementation of `calc-dirty-rate`. Belongs to the event loop's thread.

    Attributes:
        last: The last measurement, which may be in progress.
    """

    def __init__(self, ram: Ram, accel: Accelerator, tracking: Tracking) -> None:
        self.last = Measurement()
        self._ram = ram
        self._accel = accel
        self._tracking = tracking
        self._task: asyncio.Task[None] | None = None
        self._worker = Worker("dirty-rate")

    def start(self, calc_ms: int, mode: Mode, sample_pages: int | None) -> asyncio.Task[None]:
        """Start a measurement of `calc_ms` milliseconds, which becomes `last`.

        Returns:
            The task that measures; it raises nothing.

        Raises:
            ValueError: The request is refused; the text is QEMU's.
        """
        if self.last.status == "measuring":
            raise ValueError("the dirty rate is already being measured.")
        if not MIN_CALC_MS <= calc_ms <= MAX_CALC_MS:
            raise ValueError(
                f"Calculation time is out of range [{MIN_CALC_MS}ms, {MAX_CALC_MS}ms]."
            )
        if sample_pages is not None and mode != "page-sampling":
            raise ValueError("sample-pages is used only in page-sampling mode")
        if sample_pages is not None and not MIN_SAMPLE_PAGES <= sample_pages <= MAX_SAMPLE_PAGES:
            raise ValueError(
                f"sample-pages is out of range[{MIN_SAMPLE_PAGES}, {MAX_SAMPLE_PAGES}]."
            )
        rings = bool(self._accel.dirty_ring_size)
        if (mode == "dirty-ring" and not rings) or (mode == "dirty-bitmap" and rings):
            raise ValueError(f"mode {mode} is not enabled, use other method instead.")
        self.last = Measurement(
            mode, calc_ms, DEFAULT_SAMPLE_PAGES if sample_pages is None else sample_pages
        )
        self.last.status = "measuring"
        self.last.start_time = int(time.time())
        self._task = asyncio.get_running_loop().create_task(self._measure(self.last))
        return self._task

    async def _measure(self, measurement: Measurement) -> None:
        seconds = measurement.calc_ms / 1000
        try:
            match measurement.mode:
                case "dirty-ring":
                    measurement.vcpu_rates = await self._by_rings(seconds)
                    measurement.rate = sum(measurement.vcpu_rates)
                case "dirty-bitmap":
                    measurement.rate = await self._by_bitmap(seconds)
                case "page-sampling":
                    measurement.rate = await self._by_sampling(seconds, measurement.sample_pages)
        except Exception as error:  # a bug must not leave it measuring for ever
            measurement.status = "unstarted"
            if not isinstance(error, OSError):
                log.critical("dirty rate: internal error", exc_info=error)
            return
        if measurement.mode != "page-sampling":
            measurement.sample_pages = 0
        measurement.status = "measured"

    async def _by_rings(self, seconds: float) -> list[int]:
        engine = self._accel.engine
        self._tracking.acquire(self)
        try:
            await self._tracking.wait()
            start, before = time.monotonic(), engine.pages()
            await asyncio.sleep(seconds)
            seconds, pages = time.monotonic() - start, engine.pages()
        finally:
            self._tracking.release(self)
        return [mb_per_s(b - a, seconds) for a, b in zip(before, pages, strict=True)]

    async def _by_bitmap(self, seconds: float) -> int:
        self._tracking.acquire(self)
        try:
            await self._tracking.wait()
            read = self._tracking.read_log  # a migration may read it, too
            await self._worker.run(read, self)  # drops what was dirtied before
            start = time.monotonic()
            await asyncio.sleep(seconds)
            log = await self._worker.run(read, self)
            seconds = time.monotonic() - start
        finally:
            self._tracking.release(self)
        return mb_per_s(int.from_bytes(log, "little").bit_count(), seconds)

    async def _by_sampling(self, seconds: float, pages_per_gib: int) -> int:
        start = time.monotonic()
        sample = await self._worker.run(lambda: Sample(self._ram, pages_per_gib))
        await asyncio.sleep(seconds)
        changed = await self._worker.run(sample.changed)
        return mb_per_s(round(changed * self._ram.pages), time.monotonic() - start)

    async def close(self) -> None:
        """Cancel a measurement in progress; returns when nothing uses RAM or KVM any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._worker.close()
