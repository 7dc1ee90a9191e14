"""Faults by name, each one a bug that real clients have had: what is done to what the server says.

A fault stands between the session and the socket.  It knows messages, not what they mean.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from qmpserver.monitor.relay import Relay
from qmpserver.qmp import Parser, dumps, event_message
from qmpserver.standin.values import smallest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from qmpserver.monitor.channel import Connection, Owner
    from qmpserver.qapi import Schema

Kind = Literal["greeting", "reply", "event"]

FLOOD = 10_000
PADDING = 10 * 1024 * 1024
BYTE_GAP = 0.0002
EVENT_PATIENCE = 0.05
_NEGOTIATION = "qmp_capabilities"
_MESSAGE = re.compile(rb"\{\r\n.*?\r\n\}\r\n|.*?\r\n", re.DOTALL)


class WireMessage(NamedTuple):
    """A message to a client.

    Attributes:
        name: The command that it answers, or the event's.
        gap: Seconds between its bytes; 0 to send it as a whole.
    """

    data: bytes
    kind: Kind
    name: str
    gap: float = 0.0


class Spec(NamedTuple):
    """A fault as a scenario asks for it.

    Attributes:
        where: The command or event whose messages have it; None for the fault's own choice.
        times: How often it happens; None for always.
        seconds: How long it takes, where it takes time; None for the fault's own.
    """

    name: str
    where: str | None = None
    times: int | None = None
    seconds: float | None = None


class Wire(Relay):
    """A client's connection with faults on it.

    Args:
        channel: The connection without them.
        faults: What happens to each message, in turn.
        loop: The event loop.
        first: Whether there was no other client when this one came.
    """

    def __init__(
        self,
        channel: Connection,
        faults: Sequence[Fault],
        loop: asyncio.AbstractEventLoop,
        *,
        first: bool,
    ) -> None:
        super().__init__(channel)
        self.loop = loop
        self.first = first
        self._faults = faults
        self._parser = Parser()
        self._asked: deque[tuple[Any, str]] = deque()  # of requests not yet answered: id, command
        self._trickle: deque[bytes] = deque()
        self._waiting: list[WireMessage] | None = None  # for its late start

    def start(self, owner: Owner) -> None:
        """Start reading, unless a fault says later, or never."""
        self._owner = owner
        late = max(fault.start_after for fault in self._faults)
        if late:
            self._waiting = []
            self.loop.call_later(late, self._begin)
        else:
            super().start(owner)
        if any(fault.refuses(self) for fault in self._faults):
            self.close()

    @property
    def unsent(self) -> int:
        """How much was written that the client has not taken."""
        return super().unsent + sum(map(len, self._trickle))

    def resume(self) -> None:
        """Read on, unless it has not started yet."""
        if self._waiting is None:
            super().resume()

    def write(self, data: bytes) -> None:
        """Send messages, with what faults make of them."""
        for found in _MESSAGE.findall(data):
            message = self._read(found)
            if self._waiting is not None:
                self._waiting.append(message)
            else:
                self._pass(0, message)

    def put(self, data: bytes, gap: float = 0.0) -> None:
        """Send bytes, behind those that are on their way; with a `gap`, one by one."""
        if gap:
            idle = not self._trickle
            self._trickle.extend(bytes([byte]) for byte in data)
            if idle:
                self._drip(gap)
        elif self._trickle:
            self._trickle.append(data)
        else:
            super().write(data)

    async def flush_until(self, deadline: float) -> None:
        """Send what is on its way, and wait as `Channel` does."""
        super().write(b"".join(self._trickle))
        self._trickle.clear()
        await super().flush_until(deadline)

    def data_received(self, data: bytes) -> None:
        """Note which command each reply will belong to."""
        for request in self._parser.feed(data):
            known = isinstance(request, dict)
            name = request.get("execute", request.get("exec-oob", "")) if known else ""
            self._asked.append((request.get("id") if known else None, str(name)))
        super().data_received(data)

    def _drip(self, gap: float) -> None:
        if self._trickle and not self.closed:
            super().write(self._trickle.popleft())
            self.loop.call_later(gap, self._drip, gap)

    def _read(self, data: bytes) -> WireMessage:
        value = json.loads(data)
        if "QMP" in value:
            return WireMessage(data, "greeting", "")
        if "event" in value:
            return WireMessage(data, "event", value["event"])
        for index, (request_id, name) in enumerate(self._asked):
            if request_id == value.get("id"):
                del self._asked[index]
                return WireMessage(data, "reply", name)
        return WireMessage(data, "reply", "")

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        if not self.closed:
            super().start(self.owner)
        for message in waiting:
            self._pass(0, message)

    def _pass(self, index: int, message: WireMessage) -> None:
        """Send a message through the faults from `index` on."""
        if index == len(self._faults):
            self.put(message.data, message.gap)
            return
        fault, send = self._faults[index], partial(self._pass, index + 1)
        if fault.strikes(message):
            fault.strike(self, message, send)
        else:
            fault.watch(self, message, send)


class Fault:
    """One fault; the docstring of each is what a client sees.  It serves all clients in turn."""

    kinds: ClassVar[tuple[Kind, ...]] = ("reply",)
    default_where: ClassVar[str | None] = None
    default_times: ClassVar[int | None] = None
    default_seconds: ClassVar[float] = 0.0

    def __init__(self, spec: Spec, schema: Schema) -> None:
        self.where = spec.where or self.default_where
        self.left = spec.times if spec.times is not None else self.default_times
        self.seconds = spec.seconds if spec.seconds is not None else self.default_seconds
        self.schema = schema

    @property
    def start_after(self) -> float:
        """Seconds before the client is listened to, and greeted."""
        return 0.0

    def refuses(self, wire: Wire) -> bool:
        """Whether the client is sent away."""
        return False

    def strikes(self, message: WireMessage) -> bool:
        """Whether it happens to this message; counts that it does."""
        if message.kind not in self.kinds or self.left == 0:
            return False
        if self.where is not None:
            if message.name != self.where:
                return False
        elif message.kind == "reply" and message.name == _NEGOTIATION:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        """Do it."""
        send(message)

    def watch(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        """Take a message that it does not happen to."""
        send(message)

    def noise(self) -> WireMessage:
        """Return an event that nobody has asked for."""
        declared = self.schema.events.get("RTC_CHANGE") or next(iter(self.schema.events.values()))
        data = smallest(declared.data) if declared.data.members else None
        return _event(declared.name, data)


class _SilentAfterConnect(Fault):
    """The connection is accepted; no greeting comes, nor anything else."""

    kinds = ("greeting", "reply", "event")

    def strikes(self, message: WireMessage) -> bool:
        return True

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        pass


class _SilentAfterNegotiation(Fault):
    """Greeting and negotiation are as usual; after that, nothing is answered."""

    kinds = ("reply", "event")

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        pass


class _LateReply(Fault):
    """The reply comes after `seconds` (1); events pass it, later replies wait behind it."""

    default_seconds = 1.0

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._behind: dict[Wire, list[WireMessage]] = {}

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        if wire in self._behind:
            self._behind[wire].append(message)
            return
        self._behind[wire] = [message]
        wire.loop.call_later(self.seconds, self._release, wire, send)

    def watch(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        if message.kind == "reply" and wire in self._behind:
            self._behind[wire].append(message)
        else:
            send(message)

    def _release(self, wire: Wire, send: Callable[[WireMessage], None]) -> None:
        for message in self._behind.pop(wire):
            send(message)


class _StaleId(Fault):
    """The reply has the `id` of the reply before it, or for the first one of nobody's request."""

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._last: object = "stale"

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        value = json.loads(message.data)
        value["id"], self._last = self._last, value.get("id", self._last)
        send(message._replace(data=dumps(value) + b"\r\n"))

    def watch(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        if message.kind == "reply":
            self._last = json.loads(message.data).get("id", self._last)
        send(message)


class _EventBeforeGreeting(Fault):
    """An event comes before the greeting."""

    kinds = ("greeting",)

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(self.noise())
        send(message)


class _EventBeforeReply(Fault):
    """The event that a command causes comes before its reply; where it causes none, another."""

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._held: dict[Wire, list[WireMessage]] = {}

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        self._held.setdefault(wire, []).append(message)
        if len(self._held[wire]) == 1:
            wire.loop.call_later(EVENT_PATIENCE, self._release, wire, send, self._held[wire])

    def watch(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        if message.kind == "reply" and wire in self._held:
            self._held[wire].append(message)
            return
        send(message)
        if message.kind == "event":
            for reply in self._held.pop(wire, []):
                send(reply)

    def _release(
        self, wire: Wire, send: Callable[[WireMessage], None], held: list[WireMessage]
    ) -> None:
        if self._held.get(wire) is held:
            self.watch(wire, self.noise(), send)


class _DuplicatedEvent(Fault):
    """The event comes twice: DEVICE_DELETED, if no other is named."""

    kinds = ("event",)
    default_where = "DEVICE_DELETED"

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message)
        send(message)


class _SplitReply(Fault):
    """Every message comes byte by byte, the greeting too."""

    kinds = ("greeting", "reply", "event")

    def strikes(self, message: WireMessage) -> bool:
        if self.where is None and (self.left is None or self.left > 0):
            self.left = None if self.left is None else self.left - 1
            return True
        return super().strikes(message)

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message._replace(gap=BYTE_GAP))


class _GluedReplies(Fault):
    """An event and the reply come as one piece, and no line end parts them."""

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message._replace(data=self.noise().data.rstrip() + message.data))


class _HugeReply(Fault):
    """The reply is longer than 10 MiB: the rest is spaces within it."""

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message._replace(data=b"{" + b" " * PADDING + message.data[1:]))


class _EventFlood(Fault):
    """10,000 events come at once, before the reply to the first command."""

    default_times = 1

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        flood = self.noise()
        send(flood._replace(data=flood.data * FLOOD))
        send(message)


class _NotJson(Fault):
    """A line that is no JSON comes before the reply, as of a library that prints."""

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message._replace(data=b"warning: this line is no JSON\r\n" + message.data))


class _DisconnectMidReply(Fault):
    """Half of the reply comes, then the connection ends."""

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        wire.put(message.data[: len(message.data) // 2])
        wire.loop.call_soon(wire.close)


class _StoppedProcess(Fault):
    """The process is stopped, as by SIGSTOP, instead of replying; sockets stay open and accept."""

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        send(message)  # somebody has sent SIGCONT


class _SecondClientRefused(Fault):
    """While there is a client, the next one is accepted and disconnected at once."""

    def refuses(self, wire: Wire) -> bool:
        return not wire.first

    def strikes(self, message: WireMessage) -> bool:
        return False


class _ResetBeforeReply(Fault):
    """The guest resets at the worst moment: after the command is done, before its reply."""

    default_times = 1

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(_event("RESET", {"guest": True, "reason": "guest-reset"}))
        send(message)


class _LimitIgnored(Fault):
    """A dirty limit is accepted and shown, but the rate never comes down to it."""

    def strikes(self, message: WireMessage) -> bool:
        return False


class _LateStart(Fault):
    """The server takes connections at once, but listens and greets only after `seconds` (1)."""

    default_seconds = 1.0

    @property
    def start_after(self) -> float:
        return self.seconds

    def strikes(self, message: WireMessage) -> bool:
        return False


class _Delimited(Fault):
    """What the guest agent does: a byte 0xFF goes before the reply to guest-sync-delimited."""

    default_where = "guest-sync-delimited"

    def strike(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        send(message._replace(data=b"\xff" + message.data))


FAULTS: dict[str, type[Fault]] = {
    "silent-after-connect": _SilentAfterConnect,
    "silent-after-negotiation": _SilentAfterNegotiation,
    "late-start": _LateStart,
    "late-reply": _LateReply,
    "stale-id": _StaleId,
    "event-before-greeting": _EventBeforeGreeting,
    "event-before-reply": _EventBeforeReply,
    "duplicated-event": _DuplicatedEvent,
    "event-flood": _EventFlood,
    "split-reply": _SplitReply,
    "glued-replies": _GluedReplies,
    "huge-reply": _HugeReply,
    "not-json": _NotJson,
    "disconnect-mid-reply": _DisconnectMidReply,
    "stopped-process": _StoppedProcess,
    "second-client-refused": _SecondClientRefused,
    "reset-before-reply": _ResetBeforeReply,
    "limit-ignored": _LimitIgnored,
}
# What the guest agent always does.
AGENT = _Delimited
# These send events, which the guest agent has none of.
NEED_EVENTS = frozenset(
    ("event-before-greeting", "event-before-reply", "event-flood", "glued-replies",
     "reset-before-reply")
)  # fmt: skip


def _event(name: str, data: Any) -> WireMessage:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return WireMessage(event_message(name, data, seconds, rest // 1000), "event", name)
