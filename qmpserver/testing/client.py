"""A small QMP client for tests of any kind: with a loop or without one, on any thread."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from qmpserver.qmp.client import HUNG_UP, NO_GREETING, Incoming, NotQmpError, encode
from qmpserver.qmp.errors import CommandError
from qmpserver.testing.questions import PATIENCE, Questions, SentEvent
from qmpserver.transcript.conversation import Conversation
from qmpserver.transcript.message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_GREETING = 0  # the number of the greeting among the answers
_RECEIVE = 1 << 16

_Answer = Future[dict[str, Any]]


class MonitorClient:
    """A connection to a QMP server on a UNIX socket, past the negotiation.

    Any thread may use it, and event loops in other threads. The messages are read by a thread of
    its own until `close`, or the end of a `with` block.

    Args:
        path: The socket.
        patience: How many seconds to wait for the greeting, and for each answer.

    Attributes:
        patience: How many seconds to wait for each answer.

    Raises:
        OSError: There is no server, or it hangs up, or does not speak QMP.
        TimeoutError: There is no greeting.
    """

    def __init__(self, path: str, *, patience: float = 10.0) -> None:
        self.patience = patience
        self._heard = Questions(Conversation(keep=None))
        self._not_pulled: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._numbers = itertools.count(_GREETING + 1)
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # guards the two attributes below
        greeting = _Answer()
        self._awaited = {_GREETING: greeting}
        self._end = ""  # why there are no more messages
        self._socket = socket.socket(socket.AF_UNIX)
        self._reader = threading.Thread(target=self._read, name="qmp-client", daemon=True)
        try:
            self._socket.connect(path)
            self._reader.start()
            try:
                greeting.result(patience)
            except TimeoutError:
                raise TimeoutError(f"{NO_GREETING} (after {patience:g} s)") from None
            self.cmd("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the events stay readable."""
        with contextlib.suppress(OSError):  # the server has closed it, or it was never opened
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None:
            self._reader.join()
        self._socket.close()

    def cmd(self, name: str, /, **arguments: Any) -> Any:
        """Execute a command, and block until its result is there.

        Raises:
            CommandError: The server answered with an error.
            ConnectionError: The connection has ended.
            TimeoutError: There is no answer within `patience`.
        """
        try:
            return _result(self._send(name, arguments).result(self.patience))
        except TimeoutError:
            raise self._late(name) from None

    async def execute(self, name: str, /, arguments: Mapping[str, Any] | None = None) -> Any:
        """Execute a command, and wait on an event loop for its result.

        Raises:
            CommandError: The server answered with an error.
            ConnectionError: The connection has ended.
            TimeoutError: There is no answer within `patience`.
            RuntimeError: This does not run on a loop of asyncio.
        """
        loop = asyncio.get_running_loop()
        answer = asyncio.wrap_future(self._send(name, arguments), loop=loop)
        try:
            return _result(await asyncio.wait_for(answer, self.patience))
        except TimeoutError:
            raise self._late(name) from None

    @property
    def events(self) -> list[SentEvent]:
        """The events that were received so far."""
        return self._heard.sent()

    def wait_event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Block until such an event was received, now or before; return the `count`-th.

        Args:
            name: The event.
            count: How many such events must be received.
            patience: How long to wait, in seconds.
            data: Members that the event's data has at least; `_` in their names stands for `-`.

        Raises:
            AssertionError: It was not received in time; the text has the events that were.
        """
        __tracebackhide__ = True
        return self._heard.wait_event(name, count=count, patience=patience, **data)

    async def event(
        self, name: str, /, *, count: int = 1, patience: float = PATIENCE, **data: Any
    ) -> SentEvent:
        """Wait as `wait_event` does, on an event loop.

        Raises:
            AssertionError: It was not received in time; the text has the events that were.
        """
        __tracebackhide__ = True
        return await self._heard.event(name, count=count, patience=patience, **data)

    def pull_event(self, wait: float = 0.0) -> dict[str, Any] | None:
        """Return the first event that was not pulled yet, whole; None if there is none.

        Args:
            wait: How many seconds to wait for one; with 0 this returns at once.

        Raises:
            TimeoutError: It waited, and there was none.
        """
        try:
            return self._not_pulled.get(timeout=wait) if wait else self._not_pulled.get_nowait()
        except queue.Empty:
            if wait:
                raise TimeoutError(f"no event within {wait:g} s") from None
            return None

    def _late(self, name: str) -> TimeoutError:
        return TimeoutError(f"no answer to {name} within {self.patience:g} s")

    def _send(self, name: str, arguments: Mapping[str, Any] | None) -> _Answer:
        """Send a command and return its answer to be; raise ConnectionError."""
        number = next(self._numbers)
        command = encode(name, arguments, number=number) + b"\n"
        answer = _Answer()
        with self._lock:
            if self._end:
                raise ConnectionError(self._end)
            self._awaited[number] = answer
        # The reader does not wait for this lock: the server may have to send before it reads. It
        # is the reader, too, that tells the end of the connection.
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(command)
        return answer

    def _read(self) -> None:
        """Pass on all messages until the connection ends; runs on the reader's thread."""
        incoming = Incoming()
        end = HUNG_UP
        try:
            while data := self._socket.recv(_RECEIVE):
                incoming.feed(data)
                while (message := incoming.take()) is not None:
                    self._pass_on(message)
        except OSError as error:
            end = f"{HUNG_UP}: {error.strerror}"
        except NotQmpError as error:
            end = str(error)
        with self._lock:
            self._end = end
            for answer in self._awaited.values():
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(ConnectionError(end))

    def _pass_on(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._heard.conversation.add(Message("server", json.dumps(message)))
            self._not_pulled.put(message)
            return
        number = _GREETING if "QMP" in message else message.get("id")
        if not isinstance(number, int):
            return
        with self._lock:
            answer = self._awaited.pop(number, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(message)


def _result(answer: Mapping[str, Any]) -> Any:
    """Return the result that an answer has, or raise its error."""
    if "return" in answer:
        return answer["return"]
    raise CommandError(answer["error"]["desc"], answer["error"]["class"])
