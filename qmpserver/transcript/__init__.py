"""Conversations with a QMP server as text: the format, recording, comparing and replaying.

Tools, the stand-in and the pytest plugin share this package. It imports none of them, and no
server. Recording, replaying and keeping a conversation are modules of their own.
"""

from qmpserver.transcript.compare import MORE, Rules, compare
from qmpserver.transcript.errors import ReplayError, TranscriptError
from qmpserver.transcript.format import Transcript, read, read_all
from qmpserver.transcript.message import Message

__all__ = [
    "MORE",
    "Message",
    "ReplayError",
    "Rules",
    "Transcript",
    "TranscriptError",
    "compare",
    "read",
    "read_all",
]
