"""Cutting the text or bytes that one side sends into messages, however they arrive."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSES_STRING = re.compile("[\"'\n]")


class Splitter:
    """Cuts text into messages; newlines between or within messages do not matter.

    Text that is not a JSON object or array is cut at the end of its line.
    """

    _MARK = re.compile(r'[\n{}\[\]]|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|["\']')

    def __init__(self) -> None:
        self._scanned: list[str] = []  # the beginning of the message, without a mark that ends it
        self._text = ""
        self._begin = 0  # position in _text up to which it was cut or moved to _scanned
        self._at = 0  # position up to which it was scanned
        self._more: list[str] = []  # continues _text, joined when it is looked at
        self._held = 0
        self._depth = 0
        self._in_string = False

    @property
    def held(self) -> int:
        """Number of characters of the message that is not complete."""
        return self._held

    def feed(self, text: str) -> Iterator[str]:
        """Take more text; yield the messages that it completes."""
        self._more.append(text)
        self._held += len(text)
        if self._in_string and not _CLOSES_STRING.search(text):
            return
        self._join()
        yield from self._scan()
        self._scanned.append(self._text[self._begin : self._at])
        self._begin = self._at

    def rest(self) -> Iterator[str]:
        """Yield the incomplete message, if there is one, and forget it."""
        self._join()
        self._at = len(self._text)
        yield from self._cut()

    def _scan(self) -> Iterator[str]:
        while mark := self._MARK.search(self._text, self._at):
            found = mark[0]
            if found in ('"', "'"):
                end = self._text.find("\n", mark.end())
                if end < 0:
                    self._in_string = True
                    return
                self._at = end + 1
                yield from self._cut()  # a string does not contain newlines: this is not JSON
                continue
            self._at = mark.end()
            if found in "{[":
                self._depth += 1
            elif found in "}]":
                self._depth = max(self._depth - 1, 0)
            if (found in "}]" or found == "\n") and not self._depth:
                yield from self._cut()
        self._at = len(self._text)

    def _join(self) -> None:
        self._text = "".join([self._text[self._at :], *self._more])
        self._more.clear()
        self._begin = self._at = 0
        self._in_string = False

    def _cut(self) -> Iterator[str]:
        text = "".join([*self._scanned, self._text[self._begin : self._at]])
        self._scanned.clear()
        self._begin = self._at
        self._held -= len(text)
        self._depth = 0
        if message := text.strip():
            yield message


class ByteSplitter:
    """Cuts bytes, UTF-8, into messages.

    Args:
        errors: How to decode bytes that are not UTF-8, as in `bytes.decode`.
    """

    def __init__(self, errors: str = "replace") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._splitter = Splitter()

    @property
    def held(self) -> int:
        """Number of characters of the message that is not complete."""
        return self._splitter.held

    def feed(self, data: bytes) -> Iterator[str]:
        """Take more bytes; yield the messages that they complete.

        Raises:
            UnicodeDecodeError: They are not UTF-8, and `errors` is `strict`.
        """
        return self._splitter.feed(self._decoder.decode(data))

    def rest(self) -> Iterator[str]:
        """Yield the last messages, the incomplete one included; call it at the end of input.

        Raises:
            UnicodeDecodeError: The input ends within a character, and `errors` is `strict`.
        """
        yield from self._splitter.feed(self._decoder.decode(b"", final=True))
        yield from self._splitter.rest()
