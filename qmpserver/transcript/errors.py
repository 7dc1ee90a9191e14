"""Errors of this room. Nothing here knows of files or addresses: callers name those."""

from __future__ import annotations


class TranscriptError(Exception):
    """A text is not a transcript; the error's text has the line and the reason."""


class ReplayError(Exception):
    """A server cannot be played to: it does not greet, hangs up, or does not speak QMP.

    Attributes:
        client: The client on whose connection this happened, counted from 1.
    """

    def __init__(self, text: str, client: int = 1) -> None:
        super().__init__(text)
        self.client = client
