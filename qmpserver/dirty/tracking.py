"""Who needs dirty pages to be logged; logging is on only while somebody does."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpserver.accel import Accelerator

log = logging.getLogger(__name__)

GRACE_S = 1.0


class Tracking:
    """Switches the accelerator's log on for its first user, and off a while after its last.

    The switch takes milliseconds and a lock that resets need, so a thread of its own does it.
    It goes off only after `GRACE_S`: limits are often set again right after they were
    cancelled. Belongs to the event loop's thread.
    """

    def __init__(self, accel: Accelerator) -> None:
        self._accel = accel
        self._users: set[object] = set()
        self._executor = ThreadPoolExecutor(1, "tracking")
        self._task: asyncio.Task[None] | None = None
        self._wish = asyncio.Event()

    def acquire(self, user: object) -> None:
        """`user` needs tracking. Returns at once; see :meth:`wait`."""
        self._users.add(user)
        self._work()

    def release(self, user: object) -> None:
        """`user` needs it no longer; harmless if it did not."""
        if user in self._users:
            self._users.remove(user)
            self._work()

    async def wait(self) -> None:
        """Wait until what was acquired is on.

        Raises:
            OSError: The accelerator could not switch it.
        """
        while self._users and not self._accel.engine.tracking:
            task = self._task
            if task is None:
                raise OSError("dirty page tracking could not be switched on")
            await asyncio.wait([task])

    def _work(self) -> None:
        self._wish.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        """Bring the log to what the users need, until nothing is left to do."""
        engine = self._accel.engine
        loop = asyncio.get_running_loop()
        try:
            while bool(self._users) != engine.tracking:
                if self._users:
                    await loop.run_in_executor(self._executor, self._accel.log_dirty_pages, True)
                    engine.set_tracking(True)
                    return
                self._wish.clear()
                try:
                    await asyncio.wait_for(self._wish.wait(), GRACE_S)
                except TimeoutError:
                    engine.set_tracking(False)
                    await loop.run_in_executor(self._executor, self._switch_off)
        except OSError as error:
            log.error("dirty page tracking could not be switched: %s", error)
        finally:
            self._task = None

    def _switch_off(self) -> None:
        self._accel.log_dirty_pages(False)
        self._accel.engine.reap()  # what is left in the rings

    async def close(self) -> None:
        """Wait for a switch under way, and end the thread."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._executor.shutdown()
