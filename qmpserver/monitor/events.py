"""How often events are sent: QEMU limits those that a guest can trigger to one a second.

The first is sent at once.  Of those that follow within a second only the last
is sent, when the second is over.  Time is the event loop's; nothing else of
monitors is known here.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["INTERVAL", "LIMITED", "Limiter"]

INTERVAL = 1.0

# Events that are limited; with a member, events differing in it are limited apart.
LIMITED: dict[str, str | None] = {
    "RTC_CHANGE": None,
    "WATCHDOG": None,
    "BALLOON_CHANGE": None,
    "QUORUM_REPORT_BAD": "node-name",
    "QUORUM_FAILURE": None,
    "VSERPORT_CHANGE": "id",
    "MEMORY_DEVICE_SIZE_CHANGE": "qom-path",
    "HV_BALLOON_STATUS_REPORT": None,
}


class Limiter:
    """Passes events on, as often as QEMU would.

    Args:
        loop: the event loop.
        send: takes an event that is due, in the form it was offered in.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Any], None]) -> None:
        self._loop = loop
        self._send = send
        self._held: dict[tuple[str, Any], Any] = {}
        self._timers: dict[tuple[str, Any], asyncio.TimerHandle] = {}

    def offer(self, name: str, data: Mapping[str, Any] | None, event: Any) -> None:
        """Send *event* now, or later, or drop it for a later one."""
        if name not in LIMITED:
            self._send(event)
            return
        member = LIMITED[name]
        key = (name, data.get(member) if member is not None and data is not None else None)
        if key in self._timers:
            self._held[key] = event
        else:
            self._send(event)
            self._arm(key)

    def close(self) -> None:
        """Drop what is held back."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._held.clear()

    def _arm(self, key: tuple[str, Any]) -> None:
        self._timers[key] = self._loop.call_later(INTERVAL, self._due, key)

    def _due(self, key: tuple[str, Any]) -> None:
        if key in self._held:
            self._send(self._held.pop(key))
            self._arm(key)
        else:
            del self._timers[key]
