"""Faults of replies: late, misnumbered, malformed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import dumps
from qmpserver.standin.faults.base import Fault, Spec

if TYPE_CHECKING:
    import asyncio

    from qmpserver.qapi import Schema
    from qmpserver.standin.faults.base import Send
    from qmpserver.standin.wire import Wire, WireMessage

PADDING = 10 * 1024 * 1024
BYTE_GAP = 0.0002  # s; long enough for each byte to arrive in a read of its own


class LateReply(Fault, name="late-reply"):
    """The reply comes after `seconds` (1); events overtake it, later replies wait behind it."""

    default_seconds = 1.0

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._held: dict[Wire, list[WireMessage]] = {}
        self._timers: dict[Wire, asyncio.TimerHandle] = {}

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold the reply."""
        if wire in self._held:
            self._held[wire].append(message)
            return
        self._held[wire] = [message]
        self._timers[wire] = wire.loop.call_later(self.seconds, self._release, wire, send)

    def pass_by(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Hold a reply that must not overtake a late one."""
        if message.kind == "reply" and wire in self._held:
            self._held[wire].append(message)
        else:
            send(message)

    def held(self, wire: Wire) -> int:
        """Return the number of bytes of the held replies."""
        return sum(len(message.data) for message in self._held.get(wire, ()))

    def forget(self, wire: Wire) -> None:
        """Drop the held replies."""
        if wire in self._held:
            del self._held[wire]
            self._timers.pop(wire).cancel()

    def _release(self, wire: Wire, send: Send) -> None:
        del self._timers[wire]
        for message in self._held.pop(wire):
            send(message)
        wire.drained()


class StaleId(Fault, name="stale-id"):
    """The reply has the `id` of the reply before it; the first reply has an `id` of no request."""

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._last: object = "stale"

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the reply with the previous `id`."""
        value = _value(message)
        if value is not None:
            value["id"], self._last = self._last, value.get("id", self._last)
            message = message._replace(data=dumps(value) + b"\r\n")
        send(message)

    def pass_by(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Note the `id` of a reply."""
        value = _value(message) if message.kind == "reply" else None
        if value is not None:
            self._last = value.get("id", self._last)
        send(message)


def _value(message: WireMessage) -> dict[str, Any] | None:
    """Return a reply's object; None if another fault has spoilt it."""
    try:
        value: dict[str, Any] = json.loads(message.data)
    except ValueError:
        return None
    return value


class SplitReply(Fault, name="split-reply"):
    """Every message comes byte by byte, the greeting too."""

    kinds = ("greeting", "reply", "event")

    def strikes(self, message: WireMessage) -> bool:
        """Strike the negotiation's reply too, unless the scenario names a command or event."""
        if self.where is None and (self.left is None or self.left > 0):
            self.left = None if self.left is None else self.left - 1
            return True
        return super().strikes(message)

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the message with a gap after each byte."""
        send(message._replace(gap=BYTE_GAP))


class GluedReplies(Fault, name="glued-replies"):
    """An event and the reply come in one piece, without an end of line between them."""

    needs_events = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send an event and the reply as one message."""
        send(message._replace(data=self.noise().data.rstrip() + message.data))


class HugeReply(Fault, name="huge-reply"):
    """The reply is longer than 10 MiB: it is padded with spaces."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the reply with the padding."""
        send(message._replace(data=b"{" + b" " * PADDING + message.data[1:]))


class NotJson(Fault, name="not-json"):
    """A line that is not JSON comes before the reply, as if a library had printed a warning."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send a line of text and the reply as one message."""
        send(message._replace(data=b"warning: this line is no JSON\r\n" + message.data))


class Delimited(Fault):
    """The guest agent sends a byte 0xFF before the reply to `guest-sync-delimited`.

    This is no fault, but the guest agent's protocol; it has no name.
    """

    default_where = "guest-sync-delimited"

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the byte and the reply as one message."""
        send(message._replace(data=b"\xff" + message.data))
