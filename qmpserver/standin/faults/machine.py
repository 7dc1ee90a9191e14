"""Faults of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.standin.faults.base import Fault, event

if TYPE_CHECKING:
    from qmpserver.standin.faults.base import Send
    from qmpserver.standin.wire import Wire, WireMessage


class ResetBeforeReply(Fault, name="reset-before-reply"):
    """The guest resets after the command is executed and before its reply."""

    default_times = 1
    needs_events = True

    def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
        """Send the event of a reset, then the reply."""
        send(event("RESET", {"guest": True, "reason": "guest-reset"}))
        send(message)


class LimitIgnored(Fault, name="limit-ignored"):
    """A dirty limit is accepted and shown, but the dirty rate never falls to it."""

    kinds = ()  # the handlers of the dirty limit have the fault
