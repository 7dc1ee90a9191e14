"""Faults of connections: refused, silent, late, cut off."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from qmpserver.standin.faults.base import Fault

if TYPE_CHECKING:
    from qmpserver.standin.faults.base import Send
    from qmpserver.standin.wire import Wire, WireMessage


class SilentAfterConnect(Fault, name="silent-after-connect"):
    """The server accepts the connection and sends nothing, not even a greeting."""

    kinds = ("greeting", "reply", "event")

    def strikes(self, message: WireMessage) -> bool:
        """Strike every message, the negotiation's reply too."""
        return True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Drop the message."""


class SilentAfterNegotiation(Fault, name="silent-after-negotiation"):
    """After greeting and negotiation the server sends nothing more."""

    kinds = ("reply", "event")

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Drop the message."""


class LateStart(Fault, name="late-start"):
    """The server accepts connections at once, but reads and greets only after `seconds` (1)."""

    kinds = ()
    default_seconds = 1.0

    @property
    def start_after(self) -> float:
        """Seconds before the client is read from and greeted."""
        return self.seconds


class SecondClientRefused(Fault, name="second-client-refused"):
    """While a client is connected, the server disconnects every further client at once."""

    kinds = ()

    def refuses(self, wire: Wire) -> bool:
        """Return whether another client was connected first."""
        return not wire.first


class DisconnectMidReply(Fault, name="disconnect-mid-reply"):
    """The server sends half of the reply, then disconnects."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send half of the message and close."""
        wire.put(message.data[: len(message.data) // 2])
        wire.loop.call_soon(wire.close)


class StoppedProcess(Fault, name="stopped-process"):
    """Instead of replying, the process stops as by SIGSTOP; its sockets stay open and accept."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Stop this process; the message is sent after a SIGCONT."""
        os.kill(os.getpid(), signal.SIGSTOP)
        send(message)
