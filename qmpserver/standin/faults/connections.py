"""Faults of connections: refused, silent, late, cut off."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from qmpserver.monitor import Listener
from qmpserver.standin.faults.base import Fault

if TYPE_CHECKING:
    from qmpserver.monitor import Device
    from qmpserver.qapi import Schema
    from qmpserver.standin.faults.base import Send, Spec
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


class FullBacklog(Fault, name="full-backlog"):
    """For `seconds` (1) no client can connect: a UNIX socket blocks, or fails with EAGAIN."""

    kinds = ()
    default_seconds = 1.0

    def opened(self, device: Device) -> None:
        """Fill the backlog of a socket that listens."""
        if isinstance(device, Listener):
            device.fill_backlog(self.seconds)


class SecondClientRefused(Fault, name="second-client-refused"):
    """While a client is connected, the server disconnects every further client at once."""

    kinds = ()

    def refuses(self, wire: Wire) -> bool:
        """Return whether another client was connected first."""
        return not wire.first


class DisconnectBeforeGreeting(Fault, name="disconnect-before-greeting"):
    """The server accepts the connection, then disconnects without a greeting."""

    kinds = ("greeting",)

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Close."""
        wire.close()


class DisconnectBeforeReply(Fault, name="disconnect-before-reply"):
    """Instead of replying, the server disconnects."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Close."""
        wire.close()


class DisconnectMidReply(Fault, name="disconnect-mid-reply"):
    """The server sends half of the reply, then disconnects."""

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send half of the message and close."""
        wire.put(message.data[: len(message.data) // 2])
        wire.loop.call_soon(wire.close)


class QuitWithoutExit(Fault, name="quit-without-exit"):
    """After the reply to quit the process stays: it accepts connections and sends nothing."""

    kinds = ()  # the handler of quit has the fault, too

    def __init__(self, spec: Spec, schema: Schema) -> None:
        super().__init__(spec, schema)
        self._ended = False

    def take(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send messages up to the reply to quit."""
        if not self._ended:
            self._ended = message.kind == "reply" and message.name == "quit"
            send(message)


class KilledProcess(Fault, name="killed-process"):
    """Instead of replying, the process ends as by SIGKILL."""

    needs_process = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Kill this process."""
        os.kill(os.getpid(), signal.SIGKILL)


class StoppedProcess(Fault, name="stopped-process"):
    """Instead of replying, the process stops as by SIGSTOP; its sockets stay open and accept."""

    needs_process = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Stop this process; the message is sent after a SIGCONT."""
        os.kill(os.getpid(), signal.SIGSTOP)
        send(message)
