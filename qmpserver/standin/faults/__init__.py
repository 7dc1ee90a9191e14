"""Faults by name, each one a bug that real clients have met.

A fault changes the messages to a client: it delays, repeats, reorders, spoils or drops them. To add
one, write a subclass of `Fault` in the module of its kind:

    class LateReply(Fault, name="late-reply"):
        \"\"\"The reply comes after `seconds` (1); events overtake it, later replies wait.\"\"\"

        default_seconds = 1.0

        def strike(self, wire: Wire, message: WireMessage, send: Send) -> None:
            wire.loop.call_later(self.seconds, send, message)

The name is what scenarios and `fault=NAME` take. The docstring is one line and says what a client
sees: it is user documentation, and a row of the table in README.md repeats it (a test compares the
two, and another one looks for a test of every name). Set `needs_events` if it sends events.

A fault of the machine rather than of its messages, such as a limit without effect, has no `kinds`;
the handlers in `qmpserver.standin.state` ask for it with `State.has_fault(NAME)`.
"""

from qmpserver.standin.faults import connections, events, machine, replies
from qmpserver.standin.faults.base import FAULTS, Fault, Spec
from qmpserver.standin.faults.events import FLOOD, Early
from qmpserver.standin.faults.replies import Delimited

# The faults are entered in `FAULTS` by the import of their modules.
__all__ = [
    "AGENT",
    "EARLY",
    "FAULTS",
    "FLOOD",
    "Fault",
    "Spec",
    "connections",
    "events",
    "machine",
    "replies",
]

# Events before the greeting, of a recording.
EARLY = Early
# The guest agent's delimiter before a reply to `guest-sync-delimited`.
AGENT = Delimited
