"""Dirty rates: a sliding second over the page counters, and measurements on demand."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.accel import Accelerator
    from qmpserver.accel.engine import Engine
    from qmpserver.dirty.tracking import Tracking

Mode = Literal["page-sampling", "dirty-ring", "dirty-bitmap"]
Status = Literal["unstarted", "measuring", "measured"]
TimeUnit = Literal["second", "millisecond"]

PAGE_SIZE = 4096
WINDOW_S = 1.0
SAMPLE_S = 0.1
MIN_CALC_MS, MAX_CALC_MS = 50, 60_000
DEFAULT_SAMPLE_PAGES = 512


def mb_per_s(pages: int, seconds: float) -> int:
    """Pages in a time as MB/s, a MB being 2^20 bytes, to the nearest."""
    return round(pages * PAGE_SIZE / seconds / (1 << 20)) if seconds > 0 else 0


class RateWindow:
    """Each vCPU's rate over the last second, sampled while somebody keeps it open.

    A page counts once until its ring is reset, as in QEMU. Belongs to the event loop's thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples: deque[tuple[float, Sequence[int]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to sample."""
        if self._timer is None:
            self._sample()

    def close(self) -> None:
        """Sample no more, and forget."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._samples.clear()

    def _sample(self) -> None:
        now = time.monotonic()
        self._samples.append((now, self._engine.pages()))
        while self._samples[0][0] < now - WINDOW_S - SAMPLE_S:
            self._samples.popleft()
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_S, self._sample)

    def rates(self) -> list[int]:
        """MB/s of each vCPU over the last second (or since :meth:`open`), as of now."""
        pages = self._engine.pages()
        if not self._samples:
            return [0] * len(pages)
        now = time.monotonic()
        then, before = next(
            (s for s in self._samples if s[0] >= now - WINDOW_S - SAMPLE_S / 2), self._samples[-1]
        )
        return [mb_per_s(b - a, now - then) for a, b in zip(before, pages, strict=True)]


@dataclass(slots=True)
class Measurement:
    """One measurement on demand: what was asked for, and what has come of it."""

    mode: Mode = "page-sampling"
    status: Status = "unstarted"
    start_time: int = 0  # s, on CLOCK_MONOTONIC, as QEMU's
    calc_ms: int = 0
    sample_pages: int = 0
    rates: list[int] = field(default_factory=list)  # MB/s of each vCPU


class DirtyRate:
    """``calc-dirty-rate``. Belongs to the event loop's thread."""

    def __init__(self, accel: Accelerator, tracking: Tracking) -> None:
        self._accel = accel
        self._tracking = tracking
        self._task: asyncio.Task[None] | None = None
        self.last = Measurement()

    def start(self, calc_ms: int, mode: Mode, sample_pages: int | None) -> None:
        """Start a measurement of `calc_ms` milliseconds; :attr:`last` tells how it goes.

        Raises:
            ValueError: Refused, in QEMU's words.
        """
        if self.last.status == "measuring":
            raise ValueError("the dirty rate is already being measured.")
        if not MIN_CALC_MS <= calc_ms <= MAX_CALC_MS:
            raise ValueError(
                f"Calculation time is out of range [{MIN_CALC_MS}ms, {MAX_CALC_MS}ms]."
            )
        if sample_pages is not None and mode != "page-sampling":
            raise ValueError("sample-pages is used only in page-sampling mode")
        if mode != "dirty-ring" or not self._accel.dirty_ring_size:
            raise ValueError(f"mode {mode} is not enabled, use other method instead.")
        self.last = Measurement(
            mode, "measuring", int(time.monotonic()), calc_ms, DEFAULT_SAMPLE_PAGES
        )
        self._task = asyncio.get_running_loop().create_task(self._measure(self.last))

    async def _measure(self, measurement: Measurement) -> None:
        engine = self._accel.engine
        self._tracking.acquire(self)
        try:
            await self._tracking.wait()
            from_time, before = time.monotonic(), engine.pages()
            await asyncio.sleep(measurement.calc_ms / 1000)
            seconds, pages = time.monotonic() - from_time, engine.pages()
        except OSError:
            measurement.status = "unstarted"
            return
        finally:
            self._tracking.release(self)
        measurement.rates = [mb_per_s(b - a, seconds) for a, b in zip(before, pages, strict=True)]
        measurement.sample_pages = 0
        measurement.status = "measured"

    async def close(self) -> None:
        """Give a measurement under way up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
