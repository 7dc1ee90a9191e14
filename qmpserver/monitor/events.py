"""How often events are sent: QEMU limits those that a guest can trigger to one a second.

The first is sent at once.  Of those that follow within a second only the last
is sent, when the second is over.  Time is the event loop's; nothing else of
monitors is known here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

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


Key = tuple[str, Any]


class Timer(Protocol):
    """What can be taken back."""

    def cancel(self) -> None:
        """Let it not happen."""


class Limiter:
    """Passes events on, as often as QEMU would.

    Args:
        call_later: the event loop's.
        send: takes an event that is due, in the form it was offered in.

    """

    def __init__(
        self,
        call_later: Callable[[float, Callable[[Key], None], Key], Timer],
        send: Callable[[Any], None],
    ) -> None:
        self._call_later = call_later
        self._send = send
        self._held: dict[Key, Any] = {}
        self._timers: dict[Key, Timer] = {}

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

    def _arm(self, key: Key) -> None:
        self._timers[key] = self._call_later(INTERVAL, self._due, key)

    def _due(self, key: Key) -> None:
        if key in self._held:
            self._send(self._held.pop(key))
            self._arm(key)
        else:
            del self._timers[key]
