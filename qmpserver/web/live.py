"""`/live`: the data of the dashboard, as one JSON frame per `INTERVAL`.

Each frame is complete in itself: a client that skipped frames lacks only their points in the chart.
Commands and events use `/qmp`.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from qmpserver._version import VERSION
from qmpserver.web.broadcast import Broadcast

if TYPE_CHECKING:
    from aiohttp import web

    from qmpserver.vm.machine.machine import Machine

INTERVAL = 0.1  # seconds
MB = 1 << 20


class Live:
    """Samples the counters of `machine` while a client is connected; that has no side effect."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._watchers = Broadcast()
        self._task: asyncio.Task[None] | None = None
        # Converts monotonic time to the time of day, so frames are in order.
        self._epoch = time.time() - time.monotonic()

    def add_routes(self, app: web.Application) -> None:
        """Serve `/live`; close all WebSockets when `app` shuts down."""
        app.router.add_get("/live", self._watch, allow_head=False)
        app.on_shutdown.append(self._finish)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        return await self._watchers.serve(request, _encoded(self.machine()), self._start)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._sample())

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while len(self._watchers):
                await self._watchers.send(_encoded(self.frame()))
                due = max(due + INTERVAL, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            self._task = None

    async def _finish(self, _app: web.Application) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._watchers.close()

    def machine(self) -> dict[str, Any]:
        """Return the constant properties: the first frame for each client."""
        machine = self._machine
        return {
            "name": machine.name,
            "version": VERSION,
            "accel": machine.accel.name,
            "memory": machine.ram.size,
            "vcpus": machine.accel.engine.vcpus,
            "ring-size": machine.accel.dirty_ring_size,
            "reaper-mode": machine.accel.engine.reaper().mode,
            "interval": INTERVAL,
        }

    def frame(self) -> dict[str, Any]:
        """Return the current values; lists have an entry per vCPU, counters never decrease."""
        machine = self._machine
        engine = machine.accel.engine
        vcpus = [engine.vcpu(index) for index in range(engine.vcpus)]
        reaper = engine.reaper()
        rates = machine.tracking.rates
        return {
            "time": round(time.monotonic() + self._epoch, 3),  # s since 1970
            "status": machine.state,
            "rates": [round(rate / MB, 1) for rate in rates.bytes_per_second()]  # MB/s
            if rates.is_known
            else None,  # dirty pages are not tracked
            "limits": [vcpu.limit for vcpu in vcpus],  # MB/s; 0 is none
            "waiting": [vcpu.waiting for vcpu in vcpus],  # entries in the ring
            "throttle-time": [vcpu.throttle_time // 1_000_000 for vcpu in vcpus],  # ms
            "full-exits": [vcpu.full_exits for vcpu in vcpus],
            "migration": machine.migration.info(),  # as query-migrate; {} if there was none
            "overflows": engine.overflows,
            "reset-shortfalls": engine.reset_shortfalls,
            "reaper": {
                "state": "reaping" if reaper.reaping else "idle",
                "turns": reaper.turns,
                "kicks": reaper.kicks,
                "wakes": reaper.wakes,
                "coalesced-kicks": reaper.coalesced_kicks,
                "fallback-turns": reaper.fallback_turns,
                "kick-to-wake": trimmed(reaper.kick_to_wake),
                "cancel-to-wake": trimmed(reaper.cancel_to_wake),
            },
        }


def _encoded(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode()


def trimmed(histogram: list[int]) -> list[int]:
    """Return a histogram without the empty buckets at its end."""
    end = max((i for i, count in enumerate(histogram, 1) if count), default=0)
    return histogram[:end]
