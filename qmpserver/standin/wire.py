"""A client's connection with faults on it: the messages to the client pass through each of them.

The wire stands between the session and the socket. It knows kinds and names of messages, not their
meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from qmpserver.monitor.channel import WholeMessages
from qmpserver.monitor.relay import Relay
from qmpserver.qmp import Large, Parser, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpserver.monitor.channel import Connection, Owner

Kind = Literal["greeting", "reply", "event"]

MAX_UNANSWERED = 16384
"""Requests; more do not fit into the input that a session takes at a time."""

MAX_NAME = 256
"""Letters of a command's name; a schema has no longer ones."""

_SHORT = 64  # letters of an id that is kept as it is

# One message: in the pretty format up to the closing brace, else a line.
_MESSAGE = re.compile(rb"\{\r\n.*?\r\n\}\r\n|.*?\r\n", re.DOTALL)


def _key(value: object) -> object:
    """Return a short value for an id, the same for equal ids."""
    if (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and len(value) <= _SHORT)
    ):
        return value
    return hashlib.sha256(dumps(value)).digest()


class WireMessage(NamedTuple):
    """A message to a client.

    Attributes:
        data: The bytes, with the end of line.
        kind: Kind of the message.
        name: The event, or the command that the reply belongs to; empty if there is none.
        gap: Seconds between single bytes; 0 to send the message as a whole.
    """

    data: bytes
    kind: Kind
    name: str
    gap: float = 0.0


class Filter(Protocol):
    """What a wire needs of a fault."""

    @property
    def start_after(self) -> float:
        """Seconds before the client is read from and greeted."""

    def refuses(self, wire: Wire) -> bool:
        """Return whether the client is disconnected at once."""

    def take(self, wire: Wire, message: WireMessage, send: Callable[[WireMessage], None]) -> None:
        """Take a message, and call `send` for each message that the client shall get."""

    def held(self, wire: Wire) -> int:
        """Return the number of bytes held for later; `Wire.drained` tells when they were sent."""

    def forget(self, wire: Wire) -> None:
        """Drop everything that is held for a wire, which is closed."""


class Wire(Relay):
    """A client's connection with faults on it.

    Use from the event loop's thread only.

    Args:
        channel: The connection without faults.
        faults: The faults that each message passes through, in order.
        loop: The event loop.
        first: Whether no other client was connected when this one connected.
    """

    def __init__(
        self,
        channel: Connection,
        faults: Sequence[Filter],
        loop: asyncio.AbstractEventLoop,
        *,
        first: bool,
    ) -> None:
        super().__init__(channel)
        self.loop = loop
        self.first = first
        self._faults = faults
        self._parser = Parser()
        # Key of the id, and command, of each request; some commands are never answered.
        self._unanswered: deque[tuple[object, str]] = deque(maxlen=MAX_UNANSWERED)
        self._trickle: deque[bytes] = deque()
        self._sent = asyncio.Event()  # something that a fault held
        self._held: list[WireMessage] | None = None  # until a late start
        self._whole = WholeMessages()

    def start(self, owner: Owner) -> None:
        """Start reading, unless a fault starts it later or refuses the client."""
        self._owner = owner
        late = max(fault.start_after for fault in self._faults)
        if late:
            self._held = []
            self.loop.call_later(late, self._begin)
        else:
            super().start(owner)
        if any(fault.refuses(self) for fault in self._faults):
            self.close()

    @property
    def unsent(self) -> int:
        """Number of bytes that were written and not yet taken by the client."""
        held = sum(fault.held(self) for fault in self._faults)
        return super().unsent + sum(map(len, self._trickle)) + held

    def resume(self) -> None:
        """Continue reading, unless the connection has not started yet."""
        if self._held is None:
            super().resume()

    def write(self, data: bytes) -> None:
        """Pass messages through the faults as soon as they are whole, and send the results."""
        if self.closed:
            return
        for found in _MESSAGE.findall(self._whole.add(data)):
            message = self._read(found)
            if self._held is not None:
                self._held.append(message)
            else:
                self._pass(0, message)

    def put(self, data: bytes, gap: float = 0.0) -> None:
        """Send bytes past the faults, after those that are still queued.

        Args:
            data: The bytes.
            gap: Seconds between single bytes; 0 to send the bytes as a whole.
        """
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
        """Wait for what faults hold, send without gaps, and wait as `Relay.flush_until` does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self.closed and any(fault.held(self) for fault in self._faults):
                    self._sent.clear()
                    await self._sent.wait()
        super().write(b"".join(self._trickle))
        self._trickle.clear()
        await super().flush_until(deadline)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, and note the command that each later reply belongs to."""
        for message in self._parser.feed(data):
            request = message.built() if isinstance(message, Large) else message
            known = isinstance(request, dict)
            name = request.get("execute", request.get("exec-oob")) if known else None
            key = _key(request.get("id")) if known else None
            self._unanswered.append((key, name[:MAX_NAME] if isinstance(name, str) else ""))
        super().data_received(data)

    def drained(self) -> None:
        """Tell the owner that the client has taken bytes, unless the connection is closed."""
        self._sent.set()
        if not self.closed:
            super().drained()

    def channel_closed(self) -> None:
        """Forget the client."""
        for fault in self._faults:
            fault.forget(self)
        self._sent.set()
        self._trickle.clear()
        super().channel_closed()

    def _drip(self, gap: float) -> None:
        if self._trickle and not self.closed:
            super().write(self._trickle.popleft())
            self.loop.call_later(gap, self._drip, gap)
            if not self._trickle:
                self.drained()

    def _read(self, data: bytes) -> WireMessage:
        value = json.loads(data)
        if "QMP" in value:
            return WireMessage(data, "greeting", "")
        if "event" in value:
            return WireMessage(data, "event", value["event"])
        key = _key(value.get("id"))
        for index, (request_key, name) in enumerate(self._unanswered):
            if request_key == key:
                del self._unanswered[index]
                return WireMessage(data, "reply", name)
        return WireMessage(data, "reply", "")

    def _begin(self) -> None:
        held, self._held = self._held or [], None
        if not self.closed:
            super().start(self.owner)
        for message in held:
            self._pass(0, message)

    def _pass(self, index: int, message: WireMessage) -> None:
        """Pass a message through the faults from `index` on, and send the result."""
        if index == len(self._faults):
            self.put(message.data, message.gap)
        else:
            self._faults[index].take(self, message, partial(self._pass, index + 1))
