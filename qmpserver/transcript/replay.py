"""Plays a transcript's client to a server, and tells where the server answers differently."""

from __future__ import annotations

import codecs
import contextlib
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import (
    HUNG_UP,
    MAX_MESSAGE,
    NO_GREETING,
    TOO_LONG,
    ServerError,
    not_qmp,
)
from qmpserver.transcript.format import Message, Splitter, compare, message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.tools.address import ServerAddress
    from qmpserver.transcript.format import Transcript

PATIENCE_S = 5.0
_GREETING = '{"QMP": "<object>"}'
_IMPLIED = -1  # the line of what no transcript needs to say
_NEGOTIATE = '{"execute": "qmp_capabilities"}'


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a server said something else: the transcript's line, the command, and in what."""

    line: int
    command: str
    what: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "at the end"
        return f"{where}: {self.command}: {self.what}"


def replay(
    transcript: Transcript, address: ServerAddress, patience: float = PATIENCE_S
) -> Iterator[Difference]:
    """Play the client; gives differences as they are seen.

    A server has `patience` seconds for each message that is expected of it; it ends with the first
    answer that does not come. A transcript with neither greeting nor ``qmp_capabilities`` is of a
    connection that was negotiated before.

    Raises:
        ServerError: The server can't be reached, does not greet, hangs up, or sends what is no QMP.
    """
    messages = list(transcript.messages)
    if not any(m.command == "qmp_capabilities" or m.is_greeting for m in messages):
        answer = message("server", '{"return": {}}', _IMPLIED)
        messages[:0] = [message("client", _NEGOTIATE), answer]
    if not (messages and messages[0].is_greeting):
        messages.insert(0, message("server", _GREETING))
    with _Player(transcript, address, patience) as player:
        for one in messages:
            yield from player.play(one)
            if player.given_up:
                return
        yield from player.finish()


class _Player:
    """One connection, and what was expected on it and has not come, or has come unexpected."""

    def __init__(self, transcript: Transcript, address: ServerAddress, patience: float) -> None:
        self.given_up = False
        self._rules = transcript.rules
        self._address = address
        self._patience = patience
        self._splitter = Splitter()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._replies: list[Message] = []
        self._events: list[Message] = []
        self._expected_events: list[Message] = []
        self._commands: list[str | None] = []  # sent, and not answered so far
        self._command = "greeting"
        self._gone = False
        try:
            self._socket = address.connect(patience)
        except OSError as error:
            raise ServerError(f"{address}: {error.strerror or error}") from None

    def __enter__(self) -> _Player:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def play(self, one: Message) -> Iterator[Difference]:
        """Send what the client says, or wait for what the server should say."""
        if one.who == "client":
            yield from self._await_events()
            self._commands.append(one.command)
            with contextlib.suppress(OSError):  # that it has gone shows when it should answer
                self._socket.sendall(one.text.encode() + b"\n")
        elif one.is_event:
            self._expected_events.append(one)
        else:
            yield from self._expect(one)

    def finish(self) -> Iterator[Difference]:
        """Wait for the events that are still to come; what came beyond is a difference."""
        yield from self._await_events()
        if self._rules.events:
            for event in self._events:
                yield self._difference(0, f"unexpected event {event.value['event']}")
        for reply in self._replies:
            yield self._difference(0, f"unexpected answer {reply.text[:100]}")

    def _difference(self, line: int, what: str) -> Difference:
        return Difference(line, self._command, what)

    def _expect(self, one: Message) -> Iterator[Difference]:
        if self._commands:
            self._command = self._commands.pop(0) or "(no command)"
        got = self._receive(lambda: self._take(one))
        if got is None:
            if one.is_greeting:
                why = HUNG_UP if self._gone else f"{NO_GREETING} (after {self._patience:g} s)"
                raise ServerError(f"{self._address}: {why}")
            if self._gone or one.line == _IMPLIED:
                why = HUNG_UP if self._gone else f"nothing in {self._patience:g} s"
                raise ServerError(f"{self._address}: no answer to {self._command}: {why}")
            self.given_up = True
            yield self._difference(one.line, f"no answer: nothing in {self._patience:g} s")
            return
        if one.is_greeting:
            if not (got.is_greeting and isinstance(got.value["QMP"], dict)):
                raise ServerError(f"{self._address}: {not_qmp(got.text)}")
            return
        expected, said = one.value, got.value
        if one.line == _IMPLIED and "error" in said:
            raise ServerError(f"{self._address}: it refuses {self._command}")
        if self._command == "query-version" and "return" in expected and "return" in said:
            return
        for what in compare(expected, said, self._rules):
            yield self._difference(one.line, what)

    def _take(self, one: Message) -> Message | None:
        """The reply with the same id, else the first."""
        if not self._replies:
            return None
        wanted = one.value.get("id") if isinstance(one.value, dict) else None
        for index, reply in enumerate(self._replies):
            if wanted is not None and _get(reply, "id") == wanted:
                return self._replies.pop(index)
        return self._replies.pop(0)

    def _await_events(self) -> Iterator[Difference]:
        """Wait until each event that was expected so far has come, in whatever order."""
        if not self._rules.events:
            self._expected_events.clear()
            self._events.clear()
        for expected in self._expected_events:
            if self._receive(lambda e=expected: self._take_event(e)) is None:
                near = [e for e in self._events if _get(e, "event") == expected.value["event"]]
                if near:
                    self._events.remove(near[0])
                    for what in compare(expected.value, near[0].value, self._rules):
                        what = f"event {expected.value['event']}: {what}"
                        yield self._difference(expected.line, what)
                else:
                    yield self._difference(expected.line, f"no event {expected.value['event']}")
        self._expected_events.clear()

    def _take_event(self, expected: Message) -> Message | None:
        for event in self._events:
            if not compare(expected.value, event.value, self._rules):
                self._events.remove(event)
                return event
        return None

    def _receive(self, take: Any) -> Message | None:
        """Receive until there is something to take."""
        deadline = time.monotonic() + self._patience
        while (got := take()) is None:
            left = deadline - time.monotonic()
            if self._gone or left <= 0 or not select.select([self._socket], [], [], left)[0]:
                return None
            self._read()
        found: Message = got
        return found

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except OSError:
            data = b""
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise ServerError(f"{self._address}: {not_qmp(error.object)}") from None
        texts = list(self._splitter.feed(text))
        if not data:
            self._gone = True
            return  # with half a message, perhaps
        if self._splitter.held > MAX_MESSAGE:
            raise ServerError(f"{self._address}: {TOO_LONG}")
        for one in texts:
            said = message("server", one)
            if not isinstance(said.value, dict):
                raise ServerError(f"{self._address}: {not_qmp(one)}")
            (self._events if said.is_event else self._replies).append(said)


def _get(one: Message, name: str) -> Any:
    return one.value.get(name) if isinstance(one.value, dict) else None
