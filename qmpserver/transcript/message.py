"""One message of a conversation, sent by a client or by the server."""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Literal

Who = Literal["client", "server"]

END = "(end)"
"""Text of the message that stands for the server's hanging up."""


class _NotJson:
    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON = _NotJson()
"""Value of a message that is not JSON."""


class Message:
    """One message.

    Attributes:
        who: The sender.
        text: The message as it was sent.
        line: Line of the transcript, counted from 1; 0 for a message that was not read from one.
        client: Number of the client whose connection it is on, counted from 1.
        raw: Bytes that the client sends, if they are not `text` and a newline.
        unfinished: Whether the client's next bytes belong to the same message.
    """

    def __init__(
        self,
        who: Who,
        text: str,
        line: int = 0,
        client: int = 1,
        raw: bytes | None = None,
        unfinished: bool = False,
    ) -> None:
        self.who = who
        self.text = text
        self.line = line
        self.client = client
        self.raw = raw
        self.unfinished = unfinished

    @functools.cached_property
    def value(self) -> Any:
        """The message as a JSON value, parsed at the first use; `NOT_JSON` if it is not JSON."""
        if self.raw is not None:
            return NOT_JSON
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return NOT_JSON

    @property
    def is_json(self) -> bool:
        """Whether it is JSON."""
        return self.value is not NOT_JSON

    @property
    def is_event(self) -> bool:
        """Whether it is an event."""
        return self.who == "server" and isinstance(self.value, dict) and "event" in self.value

    @property
    def is_greeting(self) -> bool:
        """Whether it is a server's greeting."""
        return self.who == "server" and isinstance(self.value, dict) and "QMP" in self.value

    @property
    def is_end(self) -> bool:
        """Whether it stands for the server's hanging up."""
        return self.who == "server" and self.text == END

    @property
    def data(self) -> bytes:
        """The bytes that the client sends."""
        return self.text.encode() + b"\n" if self.raw is None else self.raw

    @property
    def command(self) -> str | None:
        """The command's name; None if it is not a command."""
        if self.who != "client" or not isinstance(self.value, dict):
            return None
        name = self.value.get("execute", self.value.get("exec-oob"))
        return name if isinstance(name, str) else None

    def member(self, name: str) -> Any:
        """Return a member of the message; None if it has no such member or is not an object."""
        return self.value.get(name) if isinstance(self.value, dict) else None

    def __str__(self) -> str:
        """Return the message as one line of a transcript."""
        arrow = "->" if self.who == "client" else "<-"
        text = re.sub("\r?\n", " ", self.text)
        return f"{self.client if self.client > 1 else ''}{arrow} {text}"
