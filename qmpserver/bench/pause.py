"""The pause that a guest feels while it moves from one machine to another, by its own counter."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from qmpserver.bench.scheduling import real_time
from qmpserver.bench.vm import VmError

if TYPE_CHECKING:
    from qmpserver.bench.vm import Vm

LOOK_S = 100e-6
NEVER_S = 10.0


class Pause(threading.Thread):
    """Watches a guest's counters in the memories of two machines, as long as the context lasts.

    A copy of a counter that arrives with the other pages is never ahead of the original. So the
    guest runs at its destination once its counters there, added up, are ahead.

    Args:
        source: The machine that the guest leaves.
        destination: The machine that it moves to.
        vcpus: How many vCPUs to watch.

    Attributes:
        stopped_at: When the counters moved for the last time at the source, and
        resumed_at: when they had moved at the destination, in ns of CLOCK_MONOTONIC; both are valid
            after `ms`.
    """

    def __init__(self, source: Vm, destination: Vm, vcpus: int = 1) -> None:
        super().__init__(name="pause", daemon=True)
        self.stopped_at = self.resumed_at = 0
        self._source = source
        self._destination = destination
        self._vcpus = range(vcpus)
        self._enough = threading.Event()

    def __enter__(self) -> Pause:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()

    def run(self) -> None:
        """Look until the guest runs at the destination, or the context ends."""
        with real_time():
            last, moved = -1, time.monotonic_ns()
            while not self._enough.is_set():
                # Those of the destination first: they follow the source's.
                there = sum(map(self._destination.progress, self._vcpus))
                here = sum(map(self._source.progress, self._vcpus))
                now = time.monotonic_ns()
                if here != last:
                    last, moved = here, now
                elif there > here:
                    self.stopped_at, self.resumed_at = moved, now
                    return
                time.sleep(LOOK_S)

    def ms(self) -> float:
        """Wait for the guest to run at the destination; return the milliseconds of its pause.

        Raises:
            VmError: It does not run.
        """
        self.join(NEVER_S)
        if not self.resumed_at:
            raise VmError(f"waited {NEVER_S:.0f} s for the guest to run at its destination")
        return (self.resumed_at - self.stopped_at) / 1e6
