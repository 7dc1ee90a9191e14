"""How often events are sent, and to which clients.

QEMU limits events that a guest can trigger to one a second: the first is sent at
once; of those that follow within a second only the last is sent, when the second is
over.  To limit another event, add it to `LIMITED`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from qmpserver.qmp import event_message

__all__ = ["INTERVAL", "LIMITED", "Event", "Limiter", "Receiver", "broadcast"]

INTERVAL = 1.0
"""Seconds."""

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
"""The limited events; those with a member are limited separately for each value of it."""

Key = tuple[str, Any]


class Event(NamedTuple):
    """An event, with its time in nanoseconds since the epoch."""

    name: str
    data: Mapping[str, Any] | None
    nanoseconds: int


class Receiver(Protocol):
    """A client that events may be sent to."""

    pretty: bool

    @property
    def wants_events(self) -> bool:
        """Whether events are sent to the client."""
        ...

    def send_event(self, message: bytes) -> None:
        """Send an encoded event."""


class Timer(Protocol):
    """A timer of the event loop."""

    def cancel(self) -> None:
        """Stop the timer."""


def broadcast(event: Event, receivers: Iterable[Receiver]) -> None:
    """Send `event` to all `receivers` that want events, encoded once for each format."""
    seconds, rest = divmod(event.nanoseconds, 1_000_000_000)
    encoded: dict[bool, bytes] = {}
    for receiver in list(receivers):  # sending may disconnect a client
        if receiver.wants_events:
            pretty = receiver.pretty
            message = encoded.get(pretty)
            if message is None:
                message = event_message(event.name, event.data, seconds, rest // 1000, pretty)
                encoded[pretty] = message
            receiver.send_event(message)


class Limiter:
    """Passes events on, as often as QEMU does.

    Args:
        call_later: The event loop's method.
        send: Sends an event.
    """

    def __init__(
        self,
        call_later: Callable[[float, Callable[[Key], None], Key], Timer],
        send: Callable[[Event], None],
    ) -> None:
        self._call_later = call_later
        self._send = send
        self._held: dict[Key, Event] = {}
        self._timers: dict[Key, Timer] = {}
        self._closed = False

    def offer(self, event: Event) -> None:
        """Send `event` now or later, or drop it in favour of a later one."""
        name, data = event.name, event.data
        if name not in LIMITED:
            self._send(event)
            return
        member = LIMITED[name]
        key = (name, data.get(member) if member is not None and data is not None else None)
        if key in self._timers:
            self._held[key] = event
        else:
            self._send(event)
            self._start_timer(key)

    def close(self) -> None:
        """Drop the events that are held back; later ones are sent at once."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._held.clear()

    def _start_timer(self, key: Key) -> None:
        if not self._closed:
            self._timers[key] = self._call_later(INTERVAL, self._interval_over, key)

    def _interval_over(self, key: Key) -> None:
        del self._timers[key]
        if key in self._held:
            self._send(self._held.pop(key))
            self._start_timer(key)
