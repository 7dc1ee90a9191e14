"""Who needs dirty pages to be logged; logging is on only while somebody does."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpserver.vm.dirty.rate import RateWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.vm.accel import Accelerator
    from qmpserver.vm.dirty.worker import Worker

log = logging.getLogger(__name__)

GRACE_S = 1.0


class Tracking:
    """Switches the accelerator's log on for its first user, and off a while after its last.

    The switch takes milliseconds and a lock that resets need, so a thread of its own does it.
    It goes off only after `GRACE_S`: limits are often set again right after they were
    cancelled. Belongs to the event loop's thread.

    `on_failure` is called when it could not be switched.
    """

    def __init__(self, accel: Accelerator, worker: Worker) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        self.rates = RateWindow(accel.engine)
        self._accel = accel
        self._users: set[object] = set()
        self._worker = worker
        self._task: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None

    def acquire(self, user: object) -> None:
        """`user` needs tracking. Returns at once; see :meth:`wait`."""
        self._users.add(user)
        self._end_grace()
        self._update()

    def release(self, user: object) -> None:
        """`user` needs it no longer; harmless if it did not."""
        self._users.discard(user)
        self._end_grace()
        if not self._users:
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._update)

    def current_rates(self) -> list[int] | None:
        """MB/s of each vCPU over the last second; None until enough has been logged."""
        return self.rates.now() if self.rates.is_known else None

    async def wait(self) -> None:
        """Wait until what was acquired is on.

        Raises:
            OSError: The accelerator could not switch it.
        """
        while self._users and not self._accel.engine.tracking:
            if self._task is None:
                raise OSError("dirty page tracking could not be switched on")
            await asyncio.wait([self._task])

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _update(self) -> None:
        if self._task is None and bool(self._users) != self._accel.engine.tracking:
            self._task = asyncio.get_running_loop().create_task(self._switch())

    async def _switch(self) -> None:
        """Bring the log to what the users need; they may change their minds meanwhile."""
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
        """Wait for a switch under way."""
        self._end_grace()
        self._users.clear()
        if self._task is not None:
            await asyncio.wait([self._task])
        self.rates.close()
