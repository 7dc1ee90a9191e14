"""The QMP client of `qmpctl`: blocking, one command at a time, errors in one line.

Between a request and its answer it only waits, so that measurements can use it too.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from qmpserver.qmp.client import HUNG_UP, NO_GREETING, Incoming, NotQmpError, encode, not_qmp
from qmpserver.tools.errors import RefusedError, ServerError, sensible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpserver.tools.address import ServerAddress

GREETING_S = 5.0
REPLY_S = 10.0
_RECEIVE = 1 << 16


class Client:
    """A connection to a QMP server, past the negotiation.

    One thread at a time may use it; any thread may call `interrupt`.

    Attributes:
        address: The server.
        socket: The connection.
        received: When the last message was received: CLOCK_MONOTONIC, ns.
        on_event: Called with each event, while an answer is waited for or by `read_events`.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        greeting_s: float = GREETING_S,
        reply_s: float = REPLY_S,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Connect and negotiate.

        Args:
            address: The server.
            greeting_s: How many seconds to wait for the connection and for each message until the
                negotiation is over.
            reply_s: How many seconds to wait for the answer to a command after that.
            on_event: Called with each event, those before the end of the negotiation too.

        Raises:
            ServerError: The server cannot be reached, or does not speak QMP.
        """
        self.address = address
        self.received = 0
        self.on_event = on_event
        self._reply_s = reply_s
        self._incoming = Incoming()
        try:
            self.socket = address.connect(greeting_s)
        except OSError as error:
            raise self._error(str(error.strerror or error)) from None
        try:
            self._negotiate(greeting_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _negotiate(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        try:
            while "event" in (greeting := self._read(deadline)):
                self._event(greeting)
        except TimeoutError:
            raise self._error(f"{NO_GREETING} (after {patience:g} s)") from None
        if not isinstance(greeting.get("QMP"), dict):
            raise self._error(not_qmp(json.dumps(greeting)))
        try:
            self.execute("qmp_capabilities", patience=patience)
        except RefusedError as error:
            raise self._error(f"it refuses qmp_capabilities: {error.desc}") from None

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        patience: float | None = None,
    ) -> Any:
        """Execute a command and return its result.

        Args:
            command: The command's name.
            arguments: The command's arguments.
            patience: How many seconds to wait for the answer, if not the client's `reply_s`.

        Raises:
            RefusedError: The server answered with an error.
            ServerError: No answer was received in time, or the answer is not QMP.
        """
        self.send(encode(command, arguments))
        return self.receive(command, patience)

    def send(self, message: bytes) -> None:
        """Send a command that `encode` returned; `receive` returns its answer.

        Raises:
            ServerError: The server does not read it.
        """
        try:
            self.socket.settimeout(self._reply_s)
            self.socket.sendall(message)
        except TimeoutError:
            raise self._error("it does not read its input") from None
        except OSError:
            raise self._error(HUNG_UP) from None

    def receive(self, command: str = "a command", patience: float | None = None) -> Any:
        """Wait for the answer to `command`, which was sent; as `execute`."""
        patience = self._reply_s if patience is None else patience
        deadline = time.monotonic() + patience
        while True:
            try:
                message = self._read(deadline)
            except TimeoutError:
                text = f"no answer to {command} within {patience:g} s"
                raise self._error(text) from None
            if "return" in message:
                return message["return"]
            if "error" in message:
                with sensible(self.address, command):
                    error = message["error"]
                    place = f"{self.address}: {command}"
                    raise RefusedError(str(error["class"]), str(error["desc"]), place)
            self._event(message)

    def read_events(self) -> None:
        """Read the events that have arrived; wait for others only to complete the last one.

        Raises:
            ServerError: The server has hung up, or sends other things than events.
        """
        arrived = select.poll()
        arrived.register(self.socket, select.POLLIN)
        deadline = time.monotonic() + self._reply_s
        while self._incoming or arrived.poll(0):
            try:
                self._event(self._read(deadline))
            except TimeoutError:
                raise self._error(f"no end of its events within {self._reply_s:g} s") from None

    def wait_event(self, patience: float) -> None:
        """Wait until an event has come and `on_event` was called with it, or the time is over.

        Args:
            patience: Seconds, an hour at most.

        Raises:
            ServerError: The server has hung up, or sends something else than QMP.
        """
        with contextlib.suppress(TimeoutError):
            self._event(self._read(time.monotonic() + patience))

    def _event(self, message: dict[str, Any]) -> None:
        if self.on_event is not None and "event" in message:
            self.on_event(message)

    def _read(self, deadline: float) -> dict[str, Any]:
        """Return the next message; raise TimeoutError at the deadline, and ServerError."""
        try:
            while (message := self._incoming.take()) is None:
                self._incoming.feed(self._receive(deadline))
        except NotQmpError as error:
            raise self._error(str(error)) from None
        return message

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            self.socket.settimeout(left)
            data = self.socket.recv(_RECEIVE)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        self.received = time.monotonic_ns()
        if not data:
            raise self._error(HUNG_UP)
        return data

    def _error(self, text: str) -> ServerError:
        return ServerError(f"{self.address}: {text}")

    def interrupt(self) -> None:
        """End the connection; a thread that waits for an answer gets ServerError at once."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
