"""The messages that clients and a server have sent, kept in memory."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpserver.transcript.message import Message

KEPT_MESSAGES = 10_000
KEPT_CHARACTERS = 16 << 20
KEPT_NAMES = 1000
LONGEST_NAME = 256


class Conversation:
    """The last messages of all clients, in the order in which the server read or wrote them.

    Any thread may use it.

    Args:
        keep: How many messages to keep; of these, only as many as have 16 Mi characters together,
            but at least one. None keeps all messages.
    """

    def __init__(self, keep: int | None = KEPT_MESSAGES) -> None:
        self.keep = keep
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque()
        self._characters = 0
        self._dropped = 0
        self._lost: set[str] = set()  # names of the dropped commands and events
        self._lost_others = False  # whether there were more names than these
        self._listeners: list[Callable[[], object]] = []

    @property
    def messages(self) -> list[Message]:
        """A copy of the messages that are kept."""
        return self.snapshot()[0]

    @property
    def dropped(self) -> int:
        """How many messages came before those that are kept."""
        return self._dropped

    def has_dropped(self, name: str | None) -> bool:
        """Return whether commands or events of this name, or of any, may have been dropped."""
        if name is None:
            return self._dropped > 0
        with self._lock:
            return self._lost_others or name in self._lost

    def snapshot(self) -> tuple[list[Message], int]:
        """Return the messages that are kept, and how many came before them."""
        with self._lock:
            return list(self._messages), self._dropped

    def __str__(self) -> str:
        """Return the messages that are kept as lines of a transcript."""
        messages, dropped = self.snapshot()
        cut = [f"# {dropped} messages were dropped"] if dropped else []
        return "\n".join([*cut, *map(str, messages)])

    def add(self, message: Message) -> None:
        """Keep a message, dropping the oldest ones if necessary, and call all listeners."""
        with self._lock:
            self._messages.append(message)
            if self.keep is not None:
                self._characters += len(message.text)
                while len(self._messages) > 1 and (
                    len(self._messages) > self.keep or self._characters > KEPT_CHARACTERS
                ):
                    self._drop(self._messages.popleft())
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def _drop(self, message: Message) -> None:
        self._characters -= len(message.text)
        self._dropped += 1
        name = message.member("event") if message.is_event else message.command
        if name is None:
            return
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            self._lost_others = True
        elif name not in self._lost:
            if len(self._lost) < KEPT_NAMES:
                self._lost.add(name)
            else:
                self._lost_others = True

    @contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Have `listener` called after each message, by the thread that adds it.

        It must not raise: the server is about to pass the message on.
        """
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
