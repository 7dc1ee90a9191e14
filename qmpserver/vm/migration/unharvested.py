"""The bytes that a guest has dirtied since the last harvest, without harvesting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qmpserver.migration.info import PAGE

if TYPE_CHECKING:
    from qmpserver.vm.migration.movable import Movable

ENOUGH = 64  # entries that tell how many of the next ones are new


class Unharvested:
    """An estimate that counts each page once, however often it was stored to.

    Entries that left the rings are marked in a bitmap, which tells exactly. Of those that wait in a
    ring, as many are taken for new as of the entries that left it last: a guest that has come round
    its working set dirties nothing new.
    """

    def __init__(self, machine: Movable) -> None:
        self._machine = machine
        self._rate = 0.0  # pages/s, between the last two harvests
        self._since = time.monotonic()
        self._seen = 0, 0  # entries that have left the rings, and the pages that they marked
        self._novelty = 1.0

    def restart(self, dirtied: int) -> None:
        """Begin anew after a harvest, which has found so many pages."""
        now = time.monotonic()
        self._rate = dirtied / max(now - self._since, 0.001)
        self._since = now
        self._seen = self._harvested(), 0
        self._novelty = 1.0

    def bytes(self) -> int:
        """Return the estimate; at most all of RAM."""
        return min(round(self._pages()) * PAGE, self._machine.ram.size)

    def _pages(self) -> float:
        engine = self._machine.accel.engine
        if not self._machine.accel.dirty_ring_size:
            # Nothing tells without a ring: as many as before, and some if the guest runs.
            return max(1.0, self._rate * (time.monotonic() - self._since))
        marked, harvested = engine.marked(), self._harvested()
        entries = harvested - self._seen[0]
        if entries >= ENOUGH:
            self._novelty = min(1.0, max(0.0, (marked - self._seen[1]) / entries))
            self._seen = harvested, marked
        return marked + self._novelty * (sum(engine.pages()) - harvested)

    def _harvested(self) -> int:
        engine = self._machine.accel.engine
        return sum(engine.vcpu(index).harvested for index in range(engine.vcpus))
