"""Questions that a test asks about a conversation: what was received and sent, now or soon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpserver.transcript.conversation import Conversation
    from qmpserver.transcript.message import Message

PATIENCE = 5.0
_ABSENT = object()


class ReceivedCommand(NamedTuple):
    """A command as a client sent it."""

    name: str
    arguments: dict[str, Any]


class SentEvent(NamedTuple):
    """An event as clients received it."""

    name: str
    data: dict[str, Any]


class Exactly(dict[str, Any]):
    """The arguments that a command must have, and no others: `Exactly(id="n0")`.

    Elsewhere, arguments are those that a command must have at least.
    """


_Said = TypeVar("_Said", bound=ReceivedCommand | SentEvent)


class Found(list[_Said]):
    """The commands or events that fit, in order; its repr also lists the others if none fits.

    Attributes:
        wanted: Description of those that fit.
        among: All commands or events that are kept.
        dropped: How many messages are not kept.
        complete: Whether none of these could be one that fits.
    """

    def __init__(
        self,
        fitting: Iterable[_Said],
        wanted: str,
        among: list[_Said],
        dropped: int,
        complete: bool,
    ) -> None:
        super().__init__(fitting)
        self.wanted = wanted
        self.among = among
        self.dropped = dropped
        self.complete = complete

    def __repr__(self) -> str:
        note = f", after {self.dropped} messages that were dropped" if self.dropped else ""
        if self:
            return f"{super().__repr__()}{note}"
        return f"[], no {self.wanted} among: {_listed(self.among)}{note}"


class Questions:
    """Questions about a conversation. Any thread may ask, and event loops in other threads.

    A conversation keeps a limited number of messages, and the names of the others. A question that
    cannot be answered without the dropped ones raises AssertionError.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    @property
    def messages(self) -> list[Message]:
        """The messages of all clients that are kept."""
        return self.conversation.messages

    def __str__(self) -> str:
        return str(self.conversation)

    def received(
        self, name: str | None = None, arguments: Mapping[str, Any] | None = None, /, **more: Any
    ) -> Found[ReceivedCommand]:
        """Return the commands of this name that had at least these arguments.

        In the names of arguments `_` stands for `-`.

        Args:
            name: The command; None for all.
            arguments: Arguments that the command had at least; `Exactly` for no others.
            more: The same as keywords.

        Raises:
            AssertionError: Commands of this name were dropped, so that some would be missing;
                `assert_received` tells whether there was one.
        """
        __tracebackhide__ = True
        return _certain(self._received(name, _wanted(arguments, more)), self.conversation)

    def sent(self, name: str | None = None, **data: Any) -> Found[SentEvent]:
        """Return the events of this name whose data had at least these members.

        An event that several clients received is one event.

        Raises:
            AssertionError: Events of this name were dropped, so that some would be missing.
        """
        __tracebackhide__ = True
        return _certain(self._sent(name, data), self.conversation)

    def assert_received(self, *expected: str | tuple[str, Mapping[str, Any]]) -> None:
        """Fail unless these commands came in this order, with or without others between them.

        Args:
            expected: A name each, or a name and arguments that the command had at least, as in
                `received`; `Exactly` for no others.

        Raises:
            AssertionError: A command did not come, or may have come among the messages that were
                dropped; the text has its name and those that came.
        """
        __tracebackhide__ = True
        found = self._received(None, {})
        left = iter(found)
        names = [one if isinstance(one, str) else one[0] for one in expected]
        for number, one in enumerate(expected):
            name, arguments = (one, {}) if isinstance(one, str) else one
            if not any(name == got.name and _has(got.arguments, arguments) for got in left):
                wanted = _described(name, arguments)
                after = f" after {', '.join(names[:number])}" if number else ""
                # If the first one was not dropped, none of the others came before it.
                found.complete = not self.conversation.has_dropped(names[0])
                raise AssertionError(
                    f"no {wanted}{after} among: {_listed(found)}{_note(found, self.conversation)}"
                )

    def wait_received(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        count: int = 1,
        patience: float = PATIENCE,
        **more: Any,
    ) -> ReceivedCommand:
        """Block until such a command has come, now or before; return the `count`-th.

        Args:
            name: The command.
            arguments: Arguments that the command has at least; `Exactly` for no others.
            count: How many such commands must come.
            patience: How long to wait, in seconds.
            more: The same as `arguments`, as keywords.

        Raises:
            AssertionError: It did not come in time; the text has the commands that came.
        """
        __tracebackhide__ = True
        wanted = _wanted(arguments, more)
        return self._block(lambda: self._received(name, wanted), count, patience)

    async def until_received(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        count: int = 1,
        patience: float = PATIENCE,
        **more: Any,
    ) -> ReceivedCommand:
        """Wait as `wait_received` does, on an event loop.

        Raises:
            AssertionError: It did not come in time; the text has the commands that came.
        """
        __tracebackhide__ = True
        wanted = _wanted(arguments, more)
        return await self._wait(lambda: self._received(name, wanted), count, patience)

    def wait_event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Block until such an event was sent to a client, now or before; return the `count`-th.

        Args:
            name: The event.
            count: How many such events must be sent.
            patience: How long to wait, in seconds.
            data: Members that the event's data has at least.

        Raises:
            AssertionError: It was not sent in time; the text has the events that were.
        """
        __tracebackhide__ = True
        return self._block(lambda: self._sent(name, data), count, patience)

    async def event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Wait as `wait_event` does, on an event loop.

        Raises:
            AssertionError: It was not sent in time; the text has the events that were.
        """
        __tracebackhide__ = True
        return await self._wait(lambda: self._sent(name, data), count, patience)

    def _received(self, name: str | None, arguments: Mapping[str, Any]) -> Found[ReceivedCommand]:
        messages, dropped = self.conversation.snapshot()
        commands = [
            ReceivedCommand(one.command, _object(one, "arguments"))
            for one in messages
            if one.command is not None
        ]
        complete = not self.conversation.has_dropped(name)
        return _fitting(commands, name, arguments, dropped, complete)

    def _sent(self, name: str | None, data: dict[str, Any]) -> Found[SentEvent]:
        messages, dropped = self.conversation.snapshot()
        events = []
        copies: Counter[tuple[int, str]] = Counter()
        most: Counter[str] = Counter()
        for one in messages:
            if one.is_event:
                text = json.dumps(one.value)
                copies[one.client, text] += 1
                if copies[one.client, text] > most[text]:
                    most[text] += 1
                    events.append(SentEvent(one.value["event"], _object(one, "data")))
        complete = not self.conversation.has_dropped(name)
        return _fitting(events, name, data, dropped, complete)

    def _block(self, look: Callable[[], Found[_Said]], count: int, patience: float) -> _Said:
        __tracebackhide__ = True
        changed = threading.Event()
        deadline = time.monotonic() + patience
        with self.conversation.listening(changed.set):
            while not (found := self._enough(look, count)):
                if not changed.wait(deadline - time.monotonic()):
                    raise AssertionError(self._late(look(), count, patience))
                changed.clear()
        return found[count - 1]

    async def _wait(self, look: Callable[[], Found[_Said]], count: int, patience: float) -> _Said:
        __tracebackhide__ = True
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # A loop may be closed while this coroutine still waits on it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        with self.conversation.listening(wake):
            try:
                async with asyncio.timeout(patience):
                    while not (found := self._enough(look, count)):
                        await changed.wait()
                        changed.clear()
            except TimeoutError:
                raise AssertionError(self._late(look(), count, patience)) from None
        return found[count - 1]

    def _enough(self, look: Callable[[], Found[_Said]], count: int) -> Found[_Said] | None:
        """Return what `look` finds if that is `count` or more.

        Raises:
            AssertionError: It cannot be counted, since messages were dropped.
        """
        __tracebackhide__ = True
        found = look()
        if not found.complete:
            note = _note(found, self.conversation)
            raise AssertionError(f"{found.wanted}: cannot be counted{note}")
        return found if len(found) >= count else None

    def _late(self, found: Found[_Said], count: int, patience: float) -> str:
        how_many = f"{len(found)} instead of {count}" if found else "none"
        among = f"{_listed(found.among)}{_note(found, self.conversation)}"
        return f"{found.wanted}: {how_many} in {patience:g} s among: {among}"


def _certain(found: Found[_Said], conversation: Conversation) -> Found[_Said]:
    __tracebackhide__ = True
    if not found.complete:
        note = _note(found, conversation)
        raise AssertionError(f"{found.wanted}: {len(found)} among: {_listed(found.among)}{note}")
    return found


def _note(found: Found[_Said], conversation: Conversation) -> str:
    if found.complete:
        return ""
    return (
        f"; {found.dropped} earlier messages were dropped, keep={conversation.keep}: "
        "a larger number, or None, keeps more"
    )


def _object(message: Message, name: str) -> dict[str, Any]:
    members = message.member(name)
    return members if isinstance(members, dict) else {}  # clients may send anything


def _fitting(
    said: list[_Said], name: str | None, members: Mapping[str, Any], dropped: int, complete: bool
) -> Found[_Said]:
    fitting = (one for one in said if name in (None, one.name) and _has(one[1], members))
    return Found(fitting, _described(name or "message", members), said, dropped, complete)


def _wanted(members: Mapping[str, Any] | None, more: dict[str, Any]) -> Mapping[str, Any]:
    if members is None:
        return more
    both = {**members, **more}
    return Exactly(both) if isinstance(members, Exactly) else both


def _has(members: dict[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether the members are at least, or exactly, the wanted ones."""
    if isinstance(wanted, Exactly) and len(members) != len(wanted):
        return False
    return all(
        any(members.get(key, _ABSENT) == value for key in {name, name.replace("_", "-")})
        for name, value in wanted.items()
    )


def _described(name: str, members: Mapping[str, Any]) -> str:
    exactly = " exactly" if isinstance(members, Exactly) else ""
    return " ".join([name + exactly, *(f"{key}={value!r}" for key, value in members.items())])


def _listed(said: Iterable[ReceivedCommand | SentEvent]) -> str:
    return ", ".join(map(_show, said)) or "nothing"


def _show(one: ReceivedCommand | SentEvent) -> str:
    return f"{one.name} {json.dumps(one[1])}" if one[1] else one.name
