"""Reading conversations that other programs captured: `socat -v`, libvirt's `.replies`, logs."""

from __future__ import annotations

import json
import re

from qmpserver.transcript.errors import TranscriptError
from qmpserver.transcript.message import Message, Who
from qmpserver.transcript.splitter import Splitter

_SOCAT = re.compile(r"([<>]) \d{4}/\d\d/\d\d [\d:.]+ +length=\d+( from=\d+ to=\d+)? *\n")
_SOCAT_ESCAPES = {"\\\\": "\\", "\\r": "\r", "\\t": "\t", '\\"': '"'}


def read_captured(text: str) -> list[Message]:
    """Return the messages in a text that is not in the transcript format.

    Raises:
        TranscriptError: There is no message in it, or no client's message.
    """
    captured = _read_socat(text) if _SOCAT.search(text) else _read_mixed(text)
    if not captured:
        raise TranscriptError("there is no message in it")
    if all(said.who == "server" for said in captured):
        raise TranscriptError("there are only a server's messages in it: nothing to replay")
    return captured


def _read_socat(text: str) -> list[Message]:
    """Join the packets of each side: socat prints them as they were read."""
    heads = list(_SOCAT.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    splitters = {"<": Splitter(), ">": Splitter()}
    said: list[tuple[str, str, int]] = []
    line, counted = 1, 0
    for head, end in zip(heads, ends, strict=True):
        line, counted = line + text.count("\n", counted, head.end()), head.end()
        data = re.sub(r'\\[\\rt"]', lambda m: _SOCAT_ESCAPES[m[0]], text[head.end() : end])
        said += [(head[1], one, line) for one in splitters[head[1]].feed(data)]
    # The server greets; without a greeting, it is the side that socat connected to.
    server = next((arrow for arrow, one, _ in said if '"QMP"' in one), "<")
    messages = [Message("server" if a == server else "client", one, n) for a, one, n in said]
    for one in messages:
        if one.who == "server" and not one.is_json:
            raise TranscriptError(
                f"line {one.line}: a server's message is not JSON; use socat -v alone"
            )
    return messages


def _read_mixed(text: str) -> list[Message]:
    """Return all JSON objects in the text: commands are the client's, all others the server's."""
    messages = []
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    at = text.find("{")
    while at >= 0:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            who: Who = "server" if value.keys().isdisjoint({"execute", "exec-oob"}) else "client"
            messages.append(Message(who, json.dumps(value), line))
        at = text.find("{", end)
    return messages
