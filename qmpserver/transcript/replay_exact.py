"""Playing an exact transcript: each client on its own connection, all answers in their order."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING

from qmpserver.qmp.client import HUNG_UP, MAX_MESSAGE, NO_GREETING, TOO_LONG, not_qmp
from qmpserver.transcript.compare import compare_exactly
from qmpserver.transcript.errors import ReplayError
from qmpserver.transcript.message import END, Message
from qmpserver.transcript.replay import PATIENCE_S, TOO_MANY, Difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.transcript.format import Transcript

MAX_EARLY = 100  # events before a greeting


def replay_exactly(
    transcript: Transcript, connections: Sequence[socket.socket], patience: float = PATIENCE_S
) -> Iterator[Difference]:
    """Play the clients, the first one on the first connection; yield differences as they are found.

    Each reply may take `patience` seconds. The first one that does not come ends the replay. All
    clients wait for their greeting first; nothing is negotiated that the transcript does not have.

    Args:
        transcript: The transcript, with the rule `exact`.
        connections: A connection for each of `transcript.clients`.
        patience: Seconds.

    Raises:
        ReplayError: A server does not greet, or sends a message that is too long.
    """
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(_Client(number, connection, patience)))
            for number, connection in enumerate(connections[: transcript.clients], 1)
        ]
        for client in clients:
            client.wait_greeting()
        command = "(no command)"
        for one in transcript.messages:
            client = clients[one.client - 1]
            if one.who == "client":
                command = one.command or "(no command)"
                client.send(one.data)
            elif not one.is_greeting:
                said = client.receive()
                if said is None:
                    yield Difference(one.line, command, f"no answer in {patience:g} s")
                    return
                for difference in compare_exactly(one, Message("server", said), transcript.rules):
                    yield Difference(one.line, command, difference)
                if said == END and not one.is_end:
                    return
        for client in clients:
            for said in client.rest():
                yield Difference(0, command, f"unexpected answer {said[:100]}")


class _Client:
    def __init__(self, number: int, connection: socket.socket, patience: float) -> None:
        self._number = number
        self._patience = patience
        self._connection = connection
        connection.settimeout(patience)
        self._input = connection.makefile("rb")
        self._early: deque[str] = deque()  # events that came before the greeting

    def close(self) -> None:
        self._input.close()

    def wait_greeting(self) -> None:
        early: list[str] = []
        while (said := self._receive()) is not None and Message("server", said).is_event:
            early.append(said)
            if len(early) > MAX_EARLY:
                raise self._error(TOO_MANY)
        if said is None:
            raise self._error(f"{NO_GREETING} (after {self._patience:g} s)")
        if said == END:
            raise self._error(HUNG_UP)
        if not Message("server", said).is_greeting:
            raise self._error(not_qmp(said))
        self._early.extend(early)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the missing reply will show it
            self._connection.sendall(data)

    def receive(self) -> str | None:
        """Return a line without its end, `END` at the end of input, None if it is late."""
        return self._early.popleft() if self._early else self._receive()

    def _receive(self) -> str | None:
        try:
            line = self._input.readline(MAX_MESSAGE)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return END
        if len(line) == MAX_MESSAGE:
            raise self._error(TOO_LONG)
        # A line with another end than QEMU's "\r\n" keeps it, and differs.
        return line.decode(errors="replace").removesuffix("\r\n") if line else END

    def rest(self) -> Iterator[str]:
        """Send no more, and yield the lines that still come."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        while (said := self.receive()) is not None and said != END:
            yield said

    def _error(self, text: str) -> ReplayError:
        return ReplayError(text, self._number)
