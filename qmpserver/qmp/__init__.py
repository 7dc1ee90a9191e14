"""The QMP protocol without I/O: JSON dialect, session state machine, error objects.

Nothing in this package opens a socket, reads a clock or knows a command other
than `qmp_capabilities`.  It imports nothing else of the project and can be
used on its own: bytes in, commands to execute and bytes to send out.
"""

import warnings

from qmpserver.qmp.errors import CommandError, ParseError, printable
from qmpserver.qmp.large import Large, LongString, Steps, refusal
from qmpserver.qmp.lexer import MAX_TOKEN_SIZE
from qmpserver.qmp.parser import Parser
from qmpserver.qmp.session import MAX_QUEUED, Request, Session
from qmpserver.qmp.writer import dumps, error_message, event_message, return_message

__all__ = [
    "MAX_QUEUED",
    "MAX_TOKEN_SIZE",
    "CommandError",
    "Large",
    "LongString",
    "ParseError",
    "Parser",
    "Request",
    "Session",
    "Steps",
    "dumps",
    "error_message",
    "event_message",
    "printable",
    "refusal",
    "return_message",
]


def __getattr__(name: str) -> type[CommandError]:
    if name == "QMPError":
        message = "qmpserver.qmp.QMPError is deprecated: use qmpserver.qmp.CommandError"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return CommandError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
