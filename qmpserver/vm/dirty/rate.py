"""Current dirty rates: a sliding window of one second over the page counters."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from qmpserver.vm.accel.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.vm.accel.engine import Engine

WINDOW_S = 1.0
SAMPLE_S = 0.1


def mb_per_s(pages: int, seconds: float) -> int:
    """Return pages per time as MB/s, rounded; a MB is 2^20 bytes."""
    return round(pages * PAGE_SIZE / seconds / (1 << 20)) if seconds > 0 else 0


class RateWindow:
    """The dirty rate of each vCPU over the last second, sampled while the window is open.

    As in QEMU, a page counts once until its ring is reset. Belongs to the event loop's thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples: deque[tuple[float, Sequence[int]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_known(self) -> bool:
        """Whether rates are meaningful: the window has been open for `SAMPLE_S`."""
        return len(self._samples) > 1

    def open(self) -> None:
        """Start sampling."""
        if self._timer is None:
            self._sample()

    def close(self) -> None:
        """Stop sampling and drop all samples."""
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

    def now(self) -> list[int]:
        """Return the MB/s of each vCPU over the last second, or since `open`."""
        pages, seconds = self._last_second()
        return [mb_per_s(count, seconds) for count in pages]

    def bytes_per_second(self) -> list[float]:
        """Return the bytes per second of each vCPU, not rounded."""
        pages, seconds = self._last_second()
        return [count * PAGE_SIZE / seconds if seconds > 0 else 0.0 for count in pages]

    def _last_second(self) -> tuple[list[int], float]:
        """Return the pages that each vCPU dirtied in the window, and its length in seconds."""
        pages = self._engine.pages()
        if not self._samples:
            return [0] * len(pages), 0.0
        now = time.monotonic()
        then, before = next(
            (s for s in self._samples if s[0] >= now - WINDOW_S - SAMPLE_S / 2), self._samples[-1]
        )
        return [b - a for a, b in zip(before, pages, strict=True)], now - then
