"""Records what QEMU answers in a transcript: ``python -m tests.qemu.transcript FILE...``.

The format is `qmpserver.transcript.format`'s. Answers that QEMU still gives are left as they are
written, with what may vary in them; the others are replaced.
"""

import contextlib
import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qmpserver.transcript.compare import compare_exactly
from qmpserver.transcript.format import Transcript, read_all
from qmpserver.transcript.message import END, Message

PATIENCE = 10.0
QEMU = ["qemu-system-x86_64"]
OURS = [sys.executable, "-m", "qmpserver.cli"]
CLIENTS = 2

# Members whose values are the moment's or the machine's; that they are there is compared.
VARYING = {
    "current-rate": "what the guest just does",
    "qom-path": "which devices a machine has besides its vCPUs",
    "start-time": "the time of day",
    "thread-id": "the operating system's choice",
    "timestamp": "the time of day",
}

# Error words of later releases, and what 7.2 says instead.
NEWER_WORDS = {
    "Calculation time is out of range [50ms, 60000ms].": "calc-time is out of range[1, 60].",
    "sample-pages is used only in page-sampling mode": (
        "either sample-pages or dirty-ring can be specified."
    ),
}


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


def record(path: Path) -> int:
    """Replace a transcript's answers by those that QEMU gives now; return how many exchanges."""
    text = path.read_text()
    answers: dict[int, list[str]] = {}
    for transcript in read_all(text):
        with talking(QEMU, options_of(transcript, "kvm")) as clients:
            for said, expected in exchanges(transcript):
                last = said[-1]
                try:
                    lines = clients[last.client - 1].say([one.data for one in said])
                except TimeoutError:
                    raise TimeoutError(f"line {last.line}: no message ends there") from None
                heard = [_answer(line, last.client) for line in lines]
                if len(heard) == len(expected):
                    pairs = zip(expected, heard, strict=True)
                    heard = [
                        got if compare_exactly(one, got, transcript.rules) else one
                        for one, got in pairs
                    ]
                who = "" if last.client == 1 else str(last.client)
                answers[last.line] = [f"{who}{one}" for one in heard]
    written = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip("12").startswith("<- "):
            written.append(line)
        written += answers.get(number, [])
    path.write_text("\n".join(written) + "\n")
    return len(answers)


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


def _answer(line: bytes, client: int) -> Message:
    got = Message("server", line.decode().removesuffix("\r\n") if line else END, client=client)
    if not isinstance(got.value, dict):
        return got
    value = _varied(got.value)
    return got if value == got.value else Message("server", json.dumps(value), client=client)


def _varied(value: Any) -> Any:
    if isinstance(value, list):
        return [_varied(item) for item in value]
    if not isinstance(value, dict):
        return value
    varied = {name: "<any>" if name in VARYING else _varied(i) for name, i in value.items()}
    for newer, older in NEWER_WORDS.items():
        if varied.get("desc") == older:
            varied["desc"] = f"<{newer}|{older}>"
    return varied


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, record(Path(name)))
