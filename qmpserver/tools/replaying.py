"""Plays a transcript's client to a server, and tells where the server answers differently."""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmpserver.tools.errors import ServerError
from qmpserver.tools.transcript import Message, Splitter, compare, message

if TYPE_CHECKING:
    from qmpserver.tools.address import Address
    from qmpserver.tools.transcript import Transcript

PATIENCE_S = 5.0
_GREETING = '{"QMP": "<object>"}'
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
    transcript: Transcript, address: Address, patience: float = PATIENCE_S
) -> list[Difference]:
    """Play the client; a server has `patience` seconds for each message that is expected of it.

    A transcript with neither greeting nor ``qmp_capabilities`` is of a connection that was
    negotiated before.

    Raises:
        ServerError: The server can't be reached, or does not greet.
    """
    messages = list(transcript.messages)
    if not any(m.command == "qmp_capabilities" or m.is_greeting for m in messages):
        messages[:0] = [message("client", _NEGOTIATE), message("server", '{"return": {}}')]
    if not (messages and messages[0].is_greeting):
        messages.insert(0, message("server", _GREETING))
    with _Player(transcript, address, patience) as player:
        for one in messages:
            player.play(one)
        player.finish()
        return player.differences


class _Player:
    """One connection, and what was expected on it and has not come, or has come unexpected."""

    def __init__(self, transcript: Transcript, address: Address, patience: float) -> None:
        self.differences: list[Difference] = []
        self._rules = transcript.rules
        self._address = address
        self._patience = patience
        self._splitter = Splitter()
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

    def play(self, one: Message) -> None:
        """Send what the client says, or wait for what the server should say."""
        if one.who == "client":
            self._await_events()
            self._commands.append(one.command)
            with contextlib.suppress(OSError):  # that it has gone shows when it should answer
                self._socket.sendall(one.text.encode() + b"\n")
        elif one.is_event:
            self._expected_events.append(one)
        else:
            self._expect(one)

    def finish(self) -> None:
        """Wait for the events that are still to come; what came beyond is a difference."""
        self._await_events()
        if self._rules.events:
            for event in self._events:
                self._differ(0, f"unexpected event {event.value['event']}")
        for reply in self._replies:
            self._differ(0, f"unexpected answer {reply.text[:100]}")

    def _differ(self, line: int, what: str) -> None:
        self.differences.append(Difference(line, self._command, what))

    def _expect(self, one: Message) -> None:
        if self._commands:
            self._command = self._commands.pop(0) or "(no command)"
        got = self._receive(lambda: self._take(one))
        if got is None:
            if one.is_greeting:
                raise ServerError(f"{self._address}: no QMP greeting within {self._patience:g} s")
            why = "the server has hung up" if self._gone else f"nothing in {self._patience:g} s"
            self._differ(one.line, f"no answer: {why}")
            return
        if one.is_greeting:
            if not got.is_greeting:
                raise ServerError(f"{self._address}: no QMP greeting, but {got.text[:60]!r}")
            return
        expected, said = one.value, got.value
        if self._command == "query-version" and "return" in expected and "return" in said:
            return
        for what in compare(expected, said, self._rules):
            self._differ(one.line, what)

    def _take(self, one: Message) -> Message | None:
        """The reply with the same id, else the first."""
        if not self._replies:
            return None
        wanted = one.value.get("id") if isinstance(one.value, dict) else None
        for index, reply in enumerate(self._replies):
            if wanted is not None and _get(reply, "id") == wanted:
                return self._replies.pop(index)
        return self._replies.pop(0)

    def _await_events(self) -> None:
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
                        self._differ(expected.line, f"event {expected.value['event']}: {what}")
                else:
                    self._differ(expected.line, f"no event {expected.value['event']}")
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
        if not data:
            self._gone = True
            texts = list(self._splitter.rest())
        else:
            texts = list(self._splitter.feed(data.decode(errors="replace")))
        for text in texts:
            said = message("server", text)
            if not isinstance(said.value, dict):
                raise ServerError(f"{self._address}: what it sends is not QMP: {text[:60]!r}")
            (self._events if said.is_event else self._replies).append(said)


def _get(one: Message, name: str) -> Any:
    return one.value.get(name) if isinstance(one.value, dict) else None
