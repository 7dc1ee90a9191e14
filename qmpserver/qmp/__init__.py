"""The QMP protocol without I/O: JSON dialect, session state machine, error objects.

Nothing in this package opens a socket, reads a clock or knows a command other
than `qmp_capabilities`.  It imports nothing else of the project and can be
used on its own: bytes in, commands to execute and bytes to send out. `client`
is the other side of it: commands to send, and bytes in, messages out.

Names are imported when they are first used: a client needs no parser of requests.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "MAX_QUEUED": "session",
    "MAX_TOKEN_SIZE": "lexer",
    "CommandError": "errors",
    "Large": "large",
    "LongString": "large",
    "ParseError": "errors",
    "Parser": "parser",
    "Request": "session",
    "Session": "session",
    "Steps": "large",
    "dumps": "writer",
    "error_message": "writer",
    "event_message": "writer",
    "printable": "errors",
    "refusal": "large",
    "return_message": "writer",
}


def __getattr__(name: str) -> Any:
    if name == "QMPError":
        message = "qmpserver.qmp.QMPError is deprecated: use qmpserver.qmp.CommandError"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return import_module("qmpserver.qmp.errors").CommandError
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"qmpserver.qmp.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
