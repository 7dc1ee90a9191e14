r"""Conversations as text files, and how to have them with a real server.

A transcript is a file in ``transcripts/``; QEMU's side of it was recorded, with
``python -m tests.qemu.transcript FILE...``, which fills in the answers anew. Its lines:

``$ OPTIONS``  start a server; ``ACCEL`` stands for ``kvm``, and for ``soft`` too where QEMU isn't
``-> TEXT``    send a line, wait for all answers to it
``=> BYTES``   the same with Python's escapes (``\xff``), and without an end of line
``+> BYTES``   send it, and wait for nothing: the next line belongs to it
``<- TEXT``    an answer, or an event; ``<- (end)`` is the connection's
``# TEXT``     a remark

A number before the arrow is a client's: each has a monitor of its own, and is greeted when the
server starts; without a number it is client 1. Answers are as `differences.comparable` has them.
"""

import contextlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.qemu.differences import comparable

PATIENCE = 10.0
QEMU = ["qemu-system-x86_64"]
OURS = [sys.executable, "-m", "qmpserver.cli"]
END = "(end)"
CLIENTS = 2


@dataclass
class Exchange:
    """What one client says, and what it hears."""

    line: int
    client: int
    packets: list[bytes] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass
class Section:
    """Exchanges with one server that is started for them."""

    line: int
    options: str
    exchanges: list[Exchange] = field(default_factory=list)


def read(path: Path) -> list[Section]:
    """Read a transcript."""
    sections: list[Section] = []
    exchange: Exchange | None = None
    complete = True
    for number, line in enumerate(path.read_text().splitlines(), 1):
        client = int(line[0]) if line[:1].isdigit() else 1
        mark, _, text = line.lstrip("12").partition(" ")
        match mark:
            case "" | "#":
                pass
            case "$":
                sections.append(Section(number, text))
            case "->" | "=>" | "+>":
                if complete:
                    exchange = Exchange(number, client)
                    sections[-1].exchanges.append(exchange)
                assert exchange is not None
                if mark == "->":
                    exchange.packets.append(text.encode() + b"\n")
                else:
                    exchange.packets.append(
                        text.encode().decode("unicode_escape").encode("latin-1")
                    )
                complete = mark != "+>"
            case "<-":
                assert exchange is not None
                assert exchange.client == client
                exchange.answers.append(text)
            case _:
                raise ValueError(f"{path.name}:{number}: what is '{mark}'?")
    return sections


class Client:
    """A client of a monitor that knows when it has heard all there is to hear."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.input: BinaryIO = self.socket.makefile("rb")
        self.greeting = self.input.readline()
        self._synced = 0

    def say(self, packets: list[bytes]) -> list[bytes]:
        """Send, and return the lines up to the answer to a question of our own; b"" is the end."""
        self._synced += 1
        mark = b'"id": "synced %d"' % self._synced
        with contextlib.suppress(ConnectionError):
            for packet in packets:
                self.socket.sendall(packet)
            self.socket.sendall(b"{%b}\n" % mark)
        lines = []
        while mark not in (line := self._line()):
            lines.append(line)
            if not line:
                break
        return lines

    def _line(self) -> bytes:
        try:
            return self.input.readline()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.input.close()
        self.socket.close()


@contextlib.contextmanager
def serving(command: list[str], options: list[str]) -> Iterator[list[Client]]:
    """Start a server with a monitor for each of a few clients; end it afterwards."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qmp")))
        paths = [directory / f"{number}" for number in range(1, CLIENTS + 1)]
        argv = [*command, *options, "-display", "none"]
        for path in paths:
            argv += ["-qmp", f"unix:{path},server=on,wait=off"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.terminate)
        clients = []
        for path in paths:
            client = _connected(path, process)
            stack.callback(client.close)
            clients.append(client)
        yield clients


def _connected(path: Path, process: subprocess.Popen[bytes]) -> Client:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.002)


def have(section: Section, command: list[str], accel: str) -> Iterator[tuple[Exchange, list[str]]]:
    """Have a section's exchanges with a server; yield each with what was answered."""
    options = shlex.split(section.options.replace("ACCEL", accel))
    with serving(command, options) as clients:
        for exchange in section.exchanges:
            try:
                lines = clients[exchange.client - 1].say(exchange.packets)
            except TimeoutError:
                raise TimeoutError(f"line {exchange.line} leaves a message unfinished") from None
            yield exchange, [comparable(line) if line else END for line in lines]


def record(path: Path) -> int:
    """Replace a transcript's answers by those that QEMU gives now; return how many exchanges."""
    answers: dict[int, tuple[str, list[str]]] = {}
    for section in read(path):
        for exchange, heard in have(section, QEMU, "kvm"):
            last = exchange.line + len(exchange.packets) - 1
            answers[last] = ("" if exchange.client == 1 else str(exchange.client), heard)
    written = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.lstrip("12").startswith("<- "):
            written.append(line)
        who, heard = answers.get(number, ("", []))
        written += [f"{who}<- {answer}" for answer in heard]
    path.write_text("\n".join(written) + "\n")
    return len(answers)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, record(Path(name)))
