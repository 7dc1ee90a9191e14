"""What clients and a server said to each other: heard on the wire, asked for by tests.

Nothing here knows of pytest, or of what the server is.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from qmpserver.monitor.relay import Relay
from qmpserver.transcript.format import Splitter, message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qmpserver.monitor.channel import Connection
    from qmpserver.transcript.format import Message, Who

PATIENCE = 5.0
_ABSENT = object()


class ReceivedCommand(NamedTuple):
    """A command as a client sent it."""

    name: str
    arguments: dict[str, Any]


class SentEvent(NamedTuple):
    """An event as clients got it."""

    name: str
    data: dict[str, Any]


_Said = TypeVar("_Said", bound=ReceivedCommand | SentEvent)


class Found(list[_Said]):
    """What fits, in order; where nothing does, its repr says what there is instead."""

    def __init__(self, fitting: list[_Said], wanted: str, among: list[_Said]) -> None:
        super().__init__(fitting)
        self.wanted = wanted
        self.among = among

    def __repr__(self) -> str:
        if self:
            return super().__repr__()
        return f"[], no {self.wanted} among: {_listed(self.among)}"


class Conversation:
    """All messages of all clients, in the order in which the server got or wrote them.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: list[Message] = []
        self._clients = 0
        self._listeners: list[Callable[[], object]] = []  # called after each message

    @property
    def messages(self) -> list[Message]:
        """A copy of all that was said."""
        with self._lock:
            return list(self._heard)

    def __str__(self) -> str:
        return "\n".join(map(str, self.messages))

    def received(self, name: str | None = None, **arguments: Any) -> Found[ReceivedCommand]:
        """Return the commands of this name that had at least these arguments.

        In the names of arguments ``_`` stands for ``-``.
        """
        return _fitting(self._commands(), name, arguments)

    def sent(self, name: str | None = None, **data: Any) -> Found[SentEvent]:
        """Return the events of this name whose data had at least these members."""
        return _fitting(self._events(), name, data)

    def assert_received(self, *expected: str | tuple[str, dict[str, Any]]) -> None:
        """Fail unless these commands came in this order, others between them or not.

        Args:
            expected: each a name, or a name and the arguments that it had, no more and no less.

        Raises:
            AssertionError: It says which did not come where.
        """
        __tracebackhide__ = True
        commands = self._commands()
        left = iter(commands)
        for number, one in enumerate(expected):
            name, arguments = (one, None) if isinstance(one, str) else one
            if not any(
                name == got.name and (arguments is None or arguments == got.arguments)
                for got in left
            ):
                wanted = name if arguments is None else _show(ReceivedCommand(name, arguments))
                names = [before if isinstance(before, str) else before[0] for before in expected]
                after = f" after {', '.join(names[:number])}" if number else ""
                raise AssertionError(f"no {wanted}{after} among: {_listed(commands)}")

    def wait_received(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **arguments: Any
    ) -> ReceivedCommand:
        """Block until such a command has come, now or before; return the `count`-th.

        Args:
            name: The command.
            count: How many have to have come.
            patience: How long to wait, in seconds.
            arguments: Those that it has at least.

        Raises:
            AssertionError: It has not come in time; the text says what has.
        """
        return self._block(lambda: self.received(name, **arguments), count, patience)

    async def until_received(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **arguments: Any
    ) -> ReceivedCommand:
        """Wait as `wait_received` does, on an event loop."""
        return await self._wait(lambda: self.received(name, **arguments), count, patience)

    def wait_event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Block until such an event has been sent to a client, now or before; as `wait_received`.

        Raises:
            AssertionError: It was not in time; the text says what was sent.
        """
        return self._block(lambda: self.sent(name, **data), count, patience)

    async def event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Wait as `wait_event` does, on an event loop."""
        return await self._wait(lambda: self.sent(name, **data), count, patience)

    def listen_in(self, channel: Connection) -> Connection:
        """Return the connection to be used in place of `channel`, so that both sides are heard."""
        with self._lock:
            self._clients += 1
            return _Tap(self, self._clients, channel)

    def hear(self, client: int, who: Who, text: str) -> None:
        """Keep a message, and wake who waits for it."""
        with self._lock:
            self._heard.append(message(who, text, client=client))
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def _commands(self) -> list[ReceivedCommand]:
        return [
            ReceivedCommand(one.command, _object(one.value, "arguments"))
            for one in self.messages
            if one.command is not None
        ]

    def _events(self) -> list[SentEvent]:
        """Each event once, however many clients it was sent to."""
        events = []
        copies: Counter[tuple[int, str]] = Counter()
        most: Counter[str] = Counter()
        for one in self.messages:
            if one.is_event:
                text = json.dumps(one.value)
                copies[one.client, text] += 1
                if copies[one.client, text] > most[text]:
                    most[text] += 1
                    events.append(SentEvent(one.value["event"], _object(one.value, "data")))
        return events

    def _block(self, look: Callable[[], Found[_Said]], count: int, patience: float) -> _Said:
        __tracebackhide__ = True
        changed = threading.Event()
        deadline = time.monotonic() + patience
        with self._listening(changed.set):
            while len(found := look()) < count:
                if not changed.wait(deadline - time.monotonic()):
                    raise AssertionError(_late(found, count, patience))
                changed.clear()
        return found[count - 1]

    async def _wait(self, look: Callable[[], Found[_Said]], count: int, patience: float) -> _Said:
        __tracebackhide__ = True
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._listening(lambda: loop.call_soon_threadsafe(changed.set)):
            try:
                async with asyncio.timeout(patience):
                    while len(found := look()) < count:
                        await changed.wait()
                        changed.clear()
            except TimeoutError:
                raise AssertionError(_late(look(), count, patience)) from None
        return found[count - 1]

    @contextmanager
    def _listening(self, listener: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


class _Tap(Relay):
    """A client's connection on which both sides are heard."""

    def __init__(self, conversation: Conversation, client: int, channel: Connection) -> None:
        super().__init__(channel)
        self._conversation = conversation
        self._client = client
        self._text = {"client": _Text(), "server": _Text()}

    def write(self, data: bytes) -> None:
        # First, so that who has got it finds it here.
        self._hear("server", data)
        super().write(data)

    def data_received(self, data: bytes) -> None:
        self._hear("client", data)
        super().data_received(data)

    def _hear(self, who: Who, data: bytes) -> None:
        for text in self._text[who].feed(data):
            self._conversation.hear(self._client, who, text)


class _Text:
    """Cuts bytes into messages, wherever they were cut before."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._splitter = Splitter()

    def feed(self, data: bytes) -> Iterator[str]:
        return self._splitter.feed(self._decoder.decode(data))


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    members = value.get(name)
    return members if isinstance(members, dict) else {}  # clients may send anything


def _fitting(said: list[_Said], name: str | None, members: dict[str, Any]) -> Found[_Said]:
    def fits(one: _Said) -> bool:
        return name in (None, one.name) and all(
            any(one[1].get(key, _ABSENT) == value for key in {member, member.replace("_", "-")})
            for member, value in members.items()
        )

    wanted = " ".join([name or "message", *(f"{key}={value!r}" for key, value in members.items())])
    return Found(list(filter(fits, said)), wanted, said)


def _listed(said: Iterable[ReceivedCommand | SentEvent]) -> str:
    return ", ".join(map(_show, said)) or "nothing"


def _show(one: ReceivedCommand | SentEvent) -> str:
    return f"{one.name} {json.dumps(one[1])}" if one[1] else one.name


def _late(found: Found[_Said], count: int, patience: float) -> str:
    how_many = f"{len(found)} instead of {count}" if found else "none"
    return f"{found.wanted}: {how_many} in {patience:g} s among: {_listed(found.among)}"
