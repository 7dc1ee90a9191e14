"""Playing a transcript's client to a server, and comparing the answers."""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpserver.qmp.client import HUNG_UP, MAX_MESSAGE, NO_GREETING, TOO_LONG, not_qmp
from qmpserver.transcript.compare import compare
from qmpserver.transcript.errors import ReplayError
from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import ByteSplitter

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from qmpserver.transcript.format import Transcript

PATIENCE_S = 5.0
MAX_WAITING = 10_000  # messages that nothing has expected so far
MAX_WAITING_SIZE = 64 << 20  # characters
TOO_MANY = "it sends more messages than can be kept until they are expected"

_READ_SIZE = 1 << 20
_GREETING = '{"QMP": "<object>"}'
_IMPLIED = -1  # line of a message that the transcript does not have
_NEGOTIATION = '{"execute": "qmp_capabilities"}'


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where the server's answer differs.

    Attributes:
        line: Line of the transcript; 0 for its end.
        command: The command that was answered.
        text: The difference.
    """

    line: int
    command: str
    text: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "at the end"
        return f"{where}: {self.command}: {self.text}"


def replay(
    transcript: Transcript, connection: socket.socket, patience: float = PATIENCE_S
) -> Iterator[Difference]:
    """Play the client on a connection; yield differences as they are found.

    Each expected message may take `patience` seconds. The first reply that does not come ends the
    replay. A transcript with neither greeting nor `qmp_capabilities` is taken for the rest of a
    conversation: the greeting and the negotiation are added. A greeting that follows commands is
    that of a client which did not wait for it.

    Raises:
        ReplayError: The server does not greet, hangs up, or does not speak QMP.
    """
    messages = list(transcript.messages)
    if not any(m.command == "qmp_capabilities" or m.is_greeting for m in messages):
        answer = Message("server", '{"return": {}}', _IMPLIED)
        messages[:0] = [Message("client", _NEGOTIATION), answer]
    if not any(one.is_greeting for one in messages):
        messages.insert(0, Message("server", _GREETING))
    player = _Player(transcript, connection, patience)
    for one in messages:
        yield from player.play(one)
        if player.given_up:
            return
    yield from player.finish()


class _Player:
    """The state of one replay.

    Attributes:
        given_up: Whether a reply did not come, so that the rest cannot be played.
    """

    def __init__(self, transcript: Transcript, connection: socket.socket, patience: float) -> None:
        self.given_up = False
        self._rules = transcript.rules
        self._connection = connection
        self._patience = patience
        self._splitter = ByteSplitter("strict")
        self._replies: list[Message] = []
        self._events: list[Message] = []
        self._expected_events: list[Message] = []
        self._unanswered: list[str | None] = []  # commands
        self._command = "greeting"
        self._hung_up = False

    def play(self, one: Message) -> Iterator[Difference]:
        """Send a client's message, or wait for a server's."""
        if one.who == "client":
            yield from self._await_events()
            self._unanswered.append(one.command)
            with contextlib.suppress(OSError):  # the missing reply will show it
                self._connection.settimeout(self._patience)
                self._connection.sendall(one.text.encode() + b"\n")
        elif one.is_event:
            self._expected_events.append(one)
        else:
            yield from self._expect(one)

    def finish(self) -> Iterator[Difference]:
        """Wait for the expected events; yield a difference for each message that is left."""
        yield from self._await_events()
        if self._rules.events:
            for event in self._events:
                yield self._difference(0, f"unexpected event {event.value['event']}")
        for reply in self._replies:
            yield self._difference(0, f"unexpected answer {reply.text[:100]}")

    def _difference(self, line: int, text: str) -> Difference:
        return Difference(line, self._command, text)

    def _expect(self, one: Message) -> Iterator[Difference]:
        if self._unanswered and not one.is_greeting:
            self._command = self._unanswered.pop(0) or "(no command)"
        got = self._receive(functools.partial(self._take_reply, one))
        if got is None:
            yield from self._missing(one)
        elif one.is_greeting:
            if not (got.is_greeting and isinstance(got.value["QMP"], dict)):
                raise ReplayError(not_qmp(got.text))
        elif one.line == _IMPLIED and "error" in got.value:
            raise ReplayError(f"it refuses {self._command}")
        elif not (
            self._command == "query-version" and "return" in one.value and "return" in got.value
        ):
            for difference in compare(one.value, got.value, self._rules):
                yield self._difference(one.line, difference)

    def _missing(self, one: Message) -> Iterator[Difference]:
        """Tell of a reply or greeting that has not come."""
        if one.is_greeting:
            late = f"{NO_GREETING} (after {self._patience:g} s)"
            raise ReplayError(HUNG_UP if self._hung_up else late)
        late = f"nothing in {self._patience:g} s"
        if self._hung_up or one.line == _IMPLIED:
            why = HUNG_UP if self._hung_up else late
            raise ReplayError(f"no answer to {self._command}: {why}")
        self.given_up = True
        yield self._difference(one.line, f"no answer: {late}")

    def _take_reply(self, expected: Message) -> Message | None:
        """Return the reply with the expected id, else the first one."""
        if not self._replies:
            return None
        wanted = expected.member("id")
        for index, reply in enumerate(self._replies):
            if wanted is not None and reply.member("id") == wanted:
                return self._replies.pop(index)
        return self._replies.pop(0)

    def _await_events(self) -> Iterator[Difference]:
        """Wait until all events that were expected so far have come, in any order."""
        if not self._rules.events:
            self._expected_events.clear()
            self._events.clear()
        for expected in self._expected_events:
            if self._receive(functools.partial(self._take_event, expected)) is None:
                name = expected.value["event"]
                near = [event for event in self._events if event.value["event"] == name]
                if near:
                    self._events.remove(near[0])
                    for difference in compare(expected.value, near[0].value, self._rules):
                        yield self._difference(expected.line, f"event {name}: {difference}")
                else:
                    yield self._difference(expected.line, f"no event {name}")
        self._expected_events.clear()

    def _take_event(self, expected: Message) -> Message | None:
        for event in self._events:
            if not compare(expected.value, event.value, self._rules):
                self._events.remove(event)
                return event
        return None

    def _receive(self, take: Callable[[], Message | None]) -> Message | None:
        """Receive until `take` returns a message, for `patience` seconds at most."""
        deadline = time.monotonic() + self._patience
        while (got := take()) is None:
            left = deadline - time.monotonic()
            if self._hung_up or left <= 0:
                return None
            self._connection.settimeout(left)
            try:
                data = self._connection.recv(_READ_SIZE)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            self._add(data)
        return got

    def _add(self, data: bytes) -> None:
        """Sort the messages that are now complete; b"" is the end of input."""
        try:
            texts = list(self._splitter.feed(data))
        except UnicodeDecodeError as error:
            raise ReplayError(not_qmp(error.object)) from None
        if not data:
            self._hung_up = True  # an incomplete message is dropped
        if self._splitter.held > MAX_MESSAGE:
            raise ReplayError(TOO_LONG)
        for text in texts:
            said = Message("server", text)
            if not isinstance(said.value, dict):
                raise ReplayError(not_qmp(text))
            (self._events if said.is_event else self._replies).append(said)
        waiting = [*self._events, *self._replies]
        if len(waiting) > MAX_WAITING or sum(len(one.text) for one in waiting) > MAX_WAITING_SIZE:
            raise ReplayError(TOO_MANY)
