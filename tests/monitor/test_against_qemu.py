"""The same bytes to this server and to a real QEMU, and the replies compared byte for byte.

What a command does is not compared here, only how one talks: two commands
exist, and every other name is one that neither side has.  QMPSERVER_EXCHANGES
says how many messages to make up.
"""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from qmpserver.qmp import Command, QMPError, Session

QEMU = shutil.which("qemu-system-x86_64")
EXCHANGES = int(os.environ.get("QMPSERVER_EXCHANGES", "2000"))

pytestmark = pytest.mark.skipif(QEMU is None, reason="there is no QEMU to compare with")

MESSAGES = [
    b'{"execute":"query-name"}',
    b'{"execute":"query-name","id":1}',
    b'{"execute":"query-name","arguments":{},"id":{"a":[1,2.5,-3e2,null,true,false],'
    b'"b":"x\\u00e9\\ud834\\udd1e"}}',
    b"{'execute':'query-name','id':'it\\'s'}",
    b'{"execute":"nope","id":"\xc3\xa9\xf0\x9d\x84\x9e\\n\\"\\\\"}',
    b'{"id":[18446744073709551615,-9223372036854775808,9223372036854775808,1e5,1.0,-0.0,'
    b"99999999999999999999,0.1,-0,0,1e400,123456789012345678]}",
    b'{"execute":"query-name","foo":1,"bar":2}',
    b'[1,2,{"a":{}}]',
    b'{"exec-oob":"query-name","id":7}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
    b'{"execute":1}',
    b"{}",
    b'"str" true nul 12 ',
    b'{"execute":"query-name","id":"a","id":"b"}',
    b'{"a":1,"arguments":[],"execute":"x"}',
    b'{"id":"\\u0000\\/\\b\\f\\t\\r", "execute":"nope"}',
    b'{"execute":"query-name","id":{"key":1,"other":2,"z":3,"return":4,"desc":5,"class":6}}',
    b'{"exec-oob":"nope","execute":"nope2"}',
    b'{"execute":"nope\xc0\x80","id":"\\u007f"}',
]
FRAGMENTS = [
    *(bytes([byte]) for byte in b"{}[],:\"'\\\n\t 0-Az\x01\xff\xfe\x00\x7f\xc3\xa9"),
    *b"1. e5 E+ 00 .5 1e +1 \\u \\x \\ud800 \\uD834\\uDD1E \\uffff true null %d /**/ ".split(),
    *b"\xed\xa0\x80 \xef\xbf\xbf \xef\xb7\x90 \xc0\x80 \xc1\x81 \xf8\x88\x80\x80\x80".split(),
    *b'\xf4\x90\x80\x80 "a":1 "a" "execute":"nope" "id":5'.split(),
]


class Qemu:
    """A QEMU that is talked to."""

    def __init__(self, path: str) -> None:
        assert QEMU is not None
        monitor = f"unix:{path},server=on,wait=off"
        command = [QEMU, "-machine", "none", "-display", "none", "-S", "-qmp", monitor]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        for _ in range(1000):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.01)
        self.replies: BinaryIO = self.socket.makefile("rb")
        self.greeting = self.replies.readline()

    def close(self) -> None:
        self.replies.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait()

    def answer(self, data: bytes, last: bytes) -> list[bytes]:
        self.socket.sendall(data)
        lines: list[bytes] = []
        while last not in (line := self.replies.readline()):
            assert line, f"QEMU has ended: {lines}"
            lines.append(line)
        return lines


class Ours:
    """Our side of the same conversation, with the commands that are compared."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.session = Session({})
        self.session.take_output()

    def answer(self, data: bytes, last: bytes) -> list[bytes]:
        position = 0
        while position < len(data):
            size = self.rng.choice([1, 3, 10, 50, 1000])
            self.session.receive(data[position : position + size])
            position += size
            while (command := self.session.next_command()) is not None:
                self.execute(command)
        lines = self.session.take_output().splitlines(keepends=True)
        assert last in lines[-1]
        return lines[:-1]

    def execute(self, command: Command) -> None:
        unexpected = list(command.arguments)
        if command.name != "query-name":
            desc = f"The command {command.name} has not been found"
            self.session.fail(command, QMPError(desc, "CommandNotFound"))
        elif unexpected:
            # Of several, QEMU names the one its hash table has first: not this test's matter.
            [name] = unexpected
            self.session.fail(command, QMPError(f"Parameter '{name}' is unexpected"))
        else:
            self.session.reply(command, {})


@pytest.fixture
def qemu(directory: Path) -> Iterator[Qemu]:
    qemu = Qemu(str(directory / "qemu"))
    yield qemu
    qemu.close()


def make(rng: random.Random) -> bytes:
    """Make up something to say: messages glued together, cut, and spoilt."""
    if rng.random() < 0.05:
        return b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 30)))
    messages = [rng.choice(MESSAGES) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    data = bytearray(rng.choice([b"", b"\n", b" "]).join(messages))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        start = rng.randint(0, len(data))
        end = start + rng.randint(0, 8)
        match rng.choice(["insert", "insert", "delete", "replace", "byte", "cut"]):
            case "insert":
                data[start:start] = rng.choice(FRAGMENTS)
            case "delete":
                del data[start:end]
            case "replace":
                data[start:end] = rng.choice(FRAGMENTS)
            case "byte":
                data[start : start + 1] = bytes([rng.randrange(256)])
            case "cut":
                del data[start:]
    return bytes(data)


def test_the_same_answers(qemu: Qemu) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    ours = Ours(rng)
    for number in range(EXCHANGES):
        said = make(rng)
        if b'"arguments":{"' in said.replace(b" ", b""):
            continue
        last = b'"id": "sync-%d"' % number
        # A byte that is an error everywhere ends whatever was begun.
        data = said + b'\xff\n{"execute":"nope","id":"sync-%d"}\n' % number
        if number == 0:
            data = b'{"execute":"qmp_capabilities"}' + data
        assert ours.answer(data, last) == qemu.answer(data, last), f"seed {seed}: {said!r}"


@pytest.mark.parametrize("opening", [b"", b'{"execute": "qmp_capabilities"}'])
@pytest.mark.parametrize("message", MESSAGES)
def test_before_and_after_negotiation(qemu: Qemu, opening: bytes, message: bytes) -> None:
    ours = Ours(random.Random(0))
    last = b'"id": "sync"'
    data = b'%b\n%b\n{"id": "sync"}\n' % (opening, message)
    assert ours.answer(data, last) == qemu.answer(data, last)


@pytest.mark.parametrize("depth", [1022, 1023, 1024, 1025])
def test_nesting(qemu: Qemu, depth: int) -> None:
    ours = Ours(random.Random(0))
    last = b'"id": "sync"'
    data = b'{"id":%b%b}\n{"id": "sync"}\n' % (b"[" * depth, b"]" * depth)
    assert ours.answer(data, last) == qemu.answer(data, last)
