"""A tap on a client's connection: it decodes both directions once, for all that want messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.monitor.relay import Relay
from qmpserver.qmp import MAX_TOKEN_SIZE
from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import ByteSplitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpserver.monitor.channel import Connection
    from qmpserver.transcript.message import Who

    Sink = Callable[[Message], object]


SHOWN = 1000
"""Letters of a message that is longer than a client may send."""


class Tap(Relay):
    """A relay that calls functions with each message, before it is passed on.

    So a client that has received a reply finds it in the conversation.

    Args:
        channel: The connection to the client.
        client: The client's number in a conversation, counted from 1.
        sinks: The functions; they must not raise. While there are none, nothing is decoded.
    """

    def __init__(self, channel: Connection, client: int, sinks: Sequence[Sink]) -> None:
        super().__init__(channel)
        self._client = client
        self._sinks = sinks
        self._splitters: dict[Who, ByteSplitter] = {
            "client": ByteSplitter(),
            "server": ByteSplitter(),
        }

    def write(self, data: bytes) -> None:
        """Send whole messages."""
        self._split("server", data)
        super().write(data)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._split("client", data)
        super().data_received(data)

    def _split(self, who: Who, data: bytes) -> None:
        if not self._sinks:
            return
        splitter = self._splitters[who]
        for text in splitter.feed(data):
            self._pass(Message(who, text, client=self._client))
        if splitter.held > MAX_TOKEN_SIZE:  # the session has refused it
            for text in splitter.rest():
                self._pass(Message(who, text[:SHOWN], client=self._client))

    def _pass(self, message: Message) -> None:
        for sink in list(self._sinks):
            sink(message)
