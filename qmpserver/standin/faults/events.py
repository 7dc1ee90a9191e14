"""Faults of events: too early, too many, too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.standin.faults.base import Fault, Spec

if TYPE_CHECKING:
    from qmpserver.qapi import Schema
    from qmpserver.standin.faults.base import Send
    from qmpserver.standin.wire import Wire, WireMessage

FLOOD = 10_000
EVENT_PATIENCE = 0.05  # s; events of a command's own come without delay


class EventBeforeGreeting(Fault, name="event-before-greeting"):
    """An event comes before the greeting."""

    kinds = ("greeting",)
    needs_events = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send an event, then the greeting."""
        send(self.noise())
        send(message)


class EventBeforeReply(Fault, name="event-before-reply"):
    """The event that a command causes comes before its reply; if it causes none, another event."""

    needs_events = True

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._held: dict[Wire, list[WireMessage]] = {}

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold the reply until the next event."""
        self._held.setdefault(wire, []).append(message)
        if len(self._held[wire]) == 1:
            wire.loop.call_later(EVENT_PATIENCE, self._release, wire, send, self._held[wire])

    def pass_by(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold a reply behind the held ones; send them all after an event."""
        if message.kind == "reply" and wire in self._held:
            self._held[wire].append(message)
            return
        send(message)
        if message.kind == "event":
            for reply in self._held.pop(wire, []):
                send(reply)
            wire.loop.call_soon(wire.drained)

    def held(self, wire: Wire) -> int:
        """Return the number of bytes of the held replies."""
        return sum(len(message.data) for message in self._held.get(wire, ()))

    def forget(self, wire: Wire) -> None:
        """Drop the held replies."""
        self._held.pop(wire, None)

    def _release(self, wire: Wire, send: Send, held: list[WireMessage]) -> None:
        if self._held.get(wire) is held:
            self.pass_by(wire, self.noise(), send)


class DuplicatedEvent(Fault, name="duplicated-event"):
    """The event comes twice: DEVICE_DELETED, unless another one is named."""

    kinds = ("event",)
    default_where = "DEVICE_DELETED"

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the event twice."""
        send(message)
        send(message)


class EventFlood(Fault, name="event-flood"):
    """10,000 events come at once, before the reply to the first command."""

    default_times = 1
    needs_events = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the events as one message, then the reply."""
        flood = self.noise()
        send(flood._replace(data=flood.data * FLOOD))
        send(message)
