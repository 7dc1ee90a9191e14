"""Faults of events: too early, too many, too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.standin.faults.base import Fault, Spec, event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.qapi import Schema
    from qmpserver.standin.faults.base import Send
    from qmpserver.standin.parts import ScriptedEvent
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


class Early(Fault):
    """Events come before the first greeting, as they were recorded.

    This is no fault that a scenario names; it has no name.
    """

    kinds = ("greeting",)

    def __init__(self, events: Sequence[ScriptedEvent], schema: Schema) -> None:
        super().__init__(Spec("early", times=1), schema)
        self._events = events

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the events, then the greeting."""
        for one in self._events:
            send(event(one.name, one.data))
        send(message)


class EventBeforeReply(Fault, name="event-before-reply"):
    """The event that a command causes comes before its reply; if it causes none, another event."""

    needs_events = True

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._held: dict[Wire, list[WireMessage]] = {}
        self._preceded: set[Wire] = set()  # by an event, which the command may have caused

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold the reply until the next events, unless they have come already."""
        if wire in self._preceded and wire not in self._held:
            self.pass_by(wire, message, send)
            return
        self._held.setdefault(wire, []).append(message)
        if len(self._held[wire]) == 1:
            held = self._held[wire]
            wire.loop.call_later(EVENT_PATIENCE, self._give_up, wire, send, held)

    def pass_by(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold a reply behind the held ones; send them all after the events that come together."""
        if message.kind == "reply":
            self._preceded.discard(wire)
            if wire in self._held:
                self._held[wire].append(message)
                return
        send(message)
        if message.kind == "event" and wire not in self._preceded:
            self._preceded.add(wire)
            wire.loop.call_soon(self._release, wire, send)

    def held(self, wire: Wire) -> int:
        """Return the number of bytes of the held replies."""
        return sum(len(message.data) for message in self._held.get(wire, ()))

    def forget(self, wire: Wire) -> None:
        """Drop the held replies."""
        self._held.pop(wire, None)
        self._preceded.discard(wire)

    def _release(self, wire: Wire, send: Send) -> None:
        self._preceded.discard(wire)
        for reply in self._held.pop(wire, []):
            send(reply)
        wire.drained()

    def _give_up(self, wire: Wire, send: Send, held: list[WireMessage]) -> None:
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
