"""Plays an exact transcript: each client on a connection of its own, each answer in its order."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from qmpserver.tools.errors import ServerError, UsageError
from qmpserver.transcript.format import END, compare_exactly, message
from qmpserver.transcript.replay import PATIENCE_S, Difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.tools.address import ServerAddress
    from qmpserver.transcript.format import Transcript


def replay_exactly(
    transcript: Transcript, addresses: Sequence[ServerAddress], patience: float = PATIENCE_S
) -> Iterator[Difference]:
    """Play the clients, the first at the first address; gives differences as they are seen.

    A server has `patience` seconds for each answer; it ends with the first that does not come.
    All greetings are waited for first, and nothing is negotiated but what the transcript says.

    Raises:
        ServerError: The server can't be reached, or does not greet.
        UsageError: There are more clients than addresses.
    """
    clients = max((one.client for one in transcript.messages), default=1)
    if clients > len(addresses):
        raise UsageError(f"{clients} clients need {clients} servers' addresses")
    with contextlib.ExitStack() as stack:
        connections = [_Connection(address, patience) for address in addresses[:clients]]
        for connection in connections:
            stack.callback(connection.close)
            connection.greeted()
        command = "(no command)"
        for one in transcript.messages:
            connection = connections[one.client - 1]
            if one.who == "client":
                command = one.command or "(no command)"
                connection.send(one.data)
            elif not one.is_greeting:
                said = connection.receive()
                if said is None:
                    yield Difference(one.line, command, f"no answer in {patience:g} s")
                    return
                for what in compare_exactly(one, message("server", said), transcript.rules):
                    yield Difference(one.line, command, what)
                if said == END and not one.is_end:
                    return
        for connection in connections:
            for said in connection.rest():
                yield Difference(0, command, f"unexpected answer {said[:100]}")


class _Connection:
    def __init__(self, address: ServerAddress, patience: float) -> None:
        self._address = address
        self._patience = patience
        try:
            self._socket = address.connect(patience)
        except OSError as error:
            raise ServerError(f"{address}: {error.strerror or error}") from None
        self._input = self._socket.makefile("rb")

    def close(self) -> None:
        self._input.close()
        self._socket.close()

    def greeted(self) -> None:
        said = self.receive()
        if said is None:
            raise ServerError(f"{self._address}: no QMP greeting within {self._patience:g} s")
        if not message("server", said).is_greeting:
            raise ServerError(f"{self._address}: no QMP greeting, but {said[:60]!r}")

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # that it has gone shows when it should answer
            self._socket.sendall(data)

    def receive(self) -> str | None:
        """Return a line without its end, ``END`` where there is none, None if it is late."""
        try:
            line = self._input.readline()
        except TimeoutError:
            return None
        except ConnectionResetError:
            return END
        # A line that ends in another way than QEMU's shows it.
        return line.decode(errors="replace").removesuffix("\r\n") if line else END

    def rest(self) -> Iterator[str]:
        """Say no more, and give what comes then."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while (said := self.receive()) not in (None, END):
            assert said is not None
            yield said
