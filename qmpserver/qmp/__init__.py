"""The QMP protocol without I/O: JSON dialect, session state machine, error objects.

Nothing in this package opens a socket, reads a clock or knows a command other
than ``qmp_capabilities``.  It imports nothing else of the project and can be
used on its own: bytes in, things to do and bytes to send out.
"""

from qmpserver.qmp.errors import CommandError, ParseError
from qmpserver.qmp.lexer import MAX_TOKEN_SIZE
from qmpserver.qmp.parser import Parser
from qmpserver.qmp.session import MAX_QUEUED, Request, Session
from qmpserver.qmp.writer import dumps, error_message, event_message, return_message

__all__ = [
    "MAX_QUEUED",
    "MAX_TOKEN_SIZE",
    "CommandError",
    "ParseError",
    "Parser",
    "Request",
    "Session",
    "dumps",
    "error_message",
    "event_message",
    "return_message",
]
