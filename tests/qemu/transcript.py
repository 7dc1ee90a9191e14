"""Servers that are talked to as recorded transcripts were: started, connected to, and asked.

The transcripts are in `transcripts/`, in a directory for each release, in the format of
`qmpserver.transcript.format`. `record` records them.
"""

import contextlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from qmpserver.transcript.format import Transcript
from qmpserver.transcript.message import Message

PATIENCE = 10.0
TRANSCRIPTS = Path(__file__).with_name("transcripts")
OURS = [sys.executable, "-m", "qmpserver.cli"]
CLIENTS = 2


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
def serving(command: list[str], options: list[str]) -> Iterator[list[Path]]:
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
        for path in paths:
            _connected(path, process).close()
        yield paths


@contextlib.contextmanager
def talking(command: list[str], options: list[str]) -> Iterator[list[Client]]:
    """Start a server and connect a few clients, each to its monitor."""
    with serving(command, options) as paths, contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Client(path))) for path in paths]


def _connected(path: Path, process: subprocess.Popen[bytes]) -> Client:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.002)


def options_of(transcript: Transcript, accel: str) -> list[str]:
    """Return what to start a server with; where QEMU has ``kvm``, others have ``soft`` too."""
    return shlex.split((transcript.options or "").replace("ACCEL", accel))


def exchanges(transcript: Transcript) -> Iterator[tuple[list[Message], list[Message]]]:
    """Give what a client sends until an answer may come, with the answers."""
    said: list[Message] = []
    heard: list[Message] = []
    for one in transcript.messages:
        if one.who == "server":
            heard.append(one)
        elif said and not said[-1].unfinished:
            yield said, heard
            said, heard = [one], []
        else:
            said.append(one)
    if said:
        yield said, heard
