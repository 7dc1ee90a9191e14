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
    """Watches vCPU 0's counter in the memories of two machines, as long as the context lasts.

    A copy of the counter that arrives with the other pages is never ahead of the original. So the
    guest runs at its destination once the counter there is ahead.
    """

    def __init__(self, source: Vm, destination: Vm) -> None:
        super().__init__(name="pause", daemon=True)
        self._source = source
        self._destination = destination
        self._enough = threading.Event()
        self._ns: int | None = None

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
                there = self._destination.progress(0)  # before the source's, which it follows
                here = self._source.progress(0)
                now = time.monotonic_ns()
                if here != last:
                    last, moved = here, now
                elif there > here:
                    self._ns = now - moved
                    return
                time.sleep(LOOK_S)

    def ms(self) -> float:
        """Wait for the guest to run at the destination; return the milliseconds of its pause.

        Raises:
            VmError: It does not run.
        """
        self.join(NEVER_S)
        if self._ns is None:
            raise VmError(f"waited {NEVER_S:.0f} s for the guest to run at its destination")
        return self._ns / 1e6
