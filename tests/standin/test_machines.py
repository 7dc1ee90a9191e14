"""`-fake machines=N`: many stand-ins in one process, each with clients and a state of its own."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmpserver.qmp.client import encode
from qmpserver.transcript.message import Message
from tests.conftest import Until, listens

COMMAND = [sys.executable, "-m", "qmpserver.cli", "-fake"]
QMP = "unix:%d.sock,server=on,wait=off"
PATIENCE = 20.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the program in a directory of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(fake: str, *options: str, **how: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [*COMMAND, fake, *(one.replace("unix:", f"unix:{tmp_path}/") for one in options)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


class Talker:
    """A client of one machine."""

    def __init__(self, path: Path, until: Until) -> None:
        until(lambda: listens(path))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("r")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        self._socket.sendall(encode(command, arguments or None) + b"\n")
        while True:
            value = Message("server", self._file.readline()).value
            if "return" in value or "error" in value:
                return value.get("return", value.get("error"))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def talker(tmp_path: Path, until: Until) -> Iterator[Callable[[int], Talker]]:
    talkers: list[Talker] = []

    def make(number: int) -> Talker:
        talkers.append(Talker(tmp_path / f"{number}.sock", until))
        return talkers[-1]

    yield make
    for one in talkers:
        one.close()


def test_each_has_a_state_a_log_and_an_end(
    start: Start, talker: Callable[[int], Talker], tmp_path: Path, until: Until
) -> None:
    options = ["-name", "vm%d", "-netdev", "user,id=net%d", "-qmp", QMP]
    process = start("default,machines=3,log=%d.qmp", *options)
    clients = [talker(number) for number in (1, 2, 3)]
    assert [one.execute("query-name") for one in clients] == [
        {"name": f"vm{number}"} for number in (1, 2, 3)
    ]
    assert clients[1].execute("netdev_del", id="net2") == {}
    assert "net1" in str(clients[1].execute("netdev_del", id="net1"))
    assert clients[0].execute("stop") == {}
    assert "running" in str(clients[2].execute("query-status"))
    clients[1].execute("quit")
    until(lambda: not (tmp_path / "2.sock").exists())
    assert clients[0].execute("query-status") == {"running": False, "status": "paused"}
    for one in (clients[0], clients[2]):
        one.execute("quit")
    assert process.wait(PATIENCE) == 0
    assert '"netdev_del"' in (tmp_path / "2.qmp").read_text()
    assert '"stop"' not in (tmp_path / "2.qmp").read_text()


def test_expectations_are_each_one_s_own(
    start: Start, talker: Callable[[int], Talker], tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text("expect = [{ command = 'stop' }]")
    process = start("a.toml,machines=2", "-qmp", QMP)
    talker(1).execute("stop")
    talker(2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said.splitlines() == [
        "qmpserver: terminating on signal 15",
        "qmpserver: machine 2: expected stop at least once; it was never sent",
        "qmpserver: machine 2: commands sent: qmp_capabilities",
    ]
    assert not list(tmp_path.glob("*.sock"))


def test_all_listen_before_the_first_one_waits(
    start: Start, talker: Callable[[int], Talker]
) -> None:
    start("default,machines=2", "-qmp", "unix:%d.sock,server=on")
    for number in (2, 1):
        assert "running" in str(talker(number).execute("query-status"))


def test_all_may_connect_to_one_place(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "here.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        start("default,machines=2", "-qmp", "unix:here.sock")
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(7) == b'{"QMP":'


@pytest.mark.slow
def test_more_than_the_soft_limit_of_descriptors(
    start: Start, talker: Callable[[int], Talker]
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    start("default,machines=200", "-qmp", QMP, preexec_fn=few)
    assert talker(200).execute("query-name") == {}
    assert talker(1).execute("query-name") == {}


@pytest.mark.parametrize(
    ("fake", "options", "why"),
    [
        ("default,machines=0", ["-qmp", QMP], "machines: '0' is no number from 1 to 100000"),
        ("default,machines=x", ["-qmp", QMP], "machines: 'x' is no number from 1 to 100000"),
        ("default,machines=" + "9" * 5000, ["-qmp", QMP], "is no number from 1 to 100000"),
        ("default,machines=2", ["-qmp", "unix:a,server=on"], "2 machines cannot share it"),
        ("default,machines=2", ["-qmp", "stdio"], "-qmp stdio: 2 machines cannot share it"),
        ("default,machines=2,log=a", ["-qmp", QMP], "log: a: 2 machines cannot share it"),
        (
            "default,machines=2,fault=killed-process",
            ["-qmp", QMP],
            "fault killed-process needs a process of its own",
        ),
    ],
)
def test_refused(start: Start, tmp_path: Path, fake: str, options: list[str], why: str) -> None:
    process = start(fake, *options)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert why in said
    assert os.listdir(tmp_path) == []


def test_too_many_for_the_hard_limit(start: Start) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    process = start("default,machines=200", "-qmp", QMP, preexec_fn=few)
    _, said = process.communicate(timeout=PATIENCE)
    assert said == (
        "qmpserver: Too many open files: 644 are needed, 64 are allowed (ulimit -n 644)\n"
    )
