"""Dirty logging, which is enabled only while something uses it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from qmpserver.vm.dirty.rate import RateWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.dirty.worker import Worker

log = logging.getLogger(__name__)

GRACE_S = 1.0


class Tracking:
    """Switches dirty logging on for its first user, and off `GRACE_S` after its last has left.

    Switching takes milliseconds and a lock that ring resets need, so a thread of its own does it.
    The grace time exists because limits are often set again right after they were cancelled.
    Belongs to the event loop's thread.

    Attributes:
        on_failure: Called when the accelerator could not switch logging.
        rates: The vCPUs' dirty rates, sampled while logging is on.
    """

    def __init__(self, accel: Accelerator, worker: Worker) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self.rates = RateWindow(accel.engine)
        self._accel = accel
        self._users: set[object] = set()
        self._worker = worker
        self._task: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._log_lock = threading.Lock()
        self._unread: dict[object, int] = {}  # bits of pages that others have read from the log

    def acquire(self, user: object) -> None:
        """Add a user. Returns at once; `wait` waits until logging is on."""
        self._users.add(user)
        self._end_grace()
        self._update()

    def release(self, user: object) -> None:
        """Remove a user; a no-op if it is none."""
        self._users.discard(user)
        self._end_grace()
        if not self._users:
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._update)

    def current_rates(self) -> list[int] | None:
        """Return the MB/s of each vCPU over the last second, or None while it is not known."""
        return self.rates.now() if self.rates.is_known else None

    async def wait(self) -> None:
        """Wait until logging is on, if it has users.

        Raises:
            OSError: The accelerator could not switch logging on.
        """
        while self._users and not self._accel.engine.tracking:
            if self._task is None:
                raise OSError("dirty page tracking could not be switched on")
            await asyncio.wait([self._task])

    def take(self) -> list[bytearray]:
        """Return and clear the bitmaps of dirty pages; a page is dirty if it is in any of them.

        While logging is on, each page written before the call is in them or in earlier ones.
        Blocks; any thread may call it.
        """
        bitmaps = [self._accel.engine.take_bitmap()]
        if not self._accel.dirty_ring_size:
            bitmaps.append(self.read_log(self))  # the other has the host's writes only
        return bitmaps

    def read_log(self, reader: object) -> bytearray:
        """Return the log of dirty pages since the call before of this `reader`.

        The accelerator forgets what it has told. So the pages are kept for all others that have
        read the log before. Only without rings. Blocks; any thread may call it.
        """
        with self._log_lock:
            log = self._accel.get_dirty_log()
            if self._unread.keys() - {reader}:
                found = int.from_bytes(log, "little")
                for other in self._unread:
                    self._unread[other] |= found
                log = bytearray((found | self._unread.get(reader, 0)).to_bytes(len(log), "little"))
            self._unread[reader] = 0
            return log

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _update(self) -> None:
        if self._task is None and bool(self._users) != self._accel.engine.tracking:
            self._task = asyncio.get_running_loop().create_task(self._switch())

    async def _switch(self) -> None:
        """Switch logging until its state matches the users, which may change meanwhile."""
        engine = self._accel.engine
        try:
            while bool(self._users) != engine.tracking:
                if self._users:
                    await self._worker.run(engine.set_tracking, True)
                    self.rates.open()
                else:
                    self.rates.close()
                    await self._worker.run(engine.set_tracking, False)
        except OSError as error:
            log.error("dirty page tracking could not be switched: %s", error)
            self.on_failure()
        finally:
            self._task = None

    async def close(self) -> None:
        """Wait for a switch in progress."""
        self._end_grace()
        self._users.clear()
        if self._task is not None:
            await asyncio.wait([self._task])
        self.rates.close()
