"""`-fake machines=N`: many stand-ins in one process, each with clients and a state of its own."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.qmp import CommandError
from qmpserver.testing.client import MonitorClient
from tests.conftest import Until, listens
from tests.standin.conftest import Start

QMP = "unix:%d.sock,server=on,wait=off"
PATIENCE = 20.0

Talker = Callable[[int], MonitorClient]


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Start:
    """Start the program in the directory of its sockets."""

    def run(fake: str, *options: str, **how: Any) -> subprocess.Popen[str]:
        placed = (one.replace("unix:", f"unix:{tmp_path}/") for one in options)
        return start(fake, *placed, cwd=tmp_path, text=True, **how)

    return run


@pytest.fixture
def talker(tmp_path: Path, until: Until) -> Iterator[Talker]:
    """Connect a client to a machine."""
    with contextlib.ExitStack() as stack:

        def make(number: int) -> MonitorClient:
            path = tmp_path / f"{number}.sock"
            until(lambda: listens(path))
            return stack.enter_context(MonitorClient(str(path), patience=PATIENCE))

        yield make


def test_each_has_a_state_a_log_and_an_end(
    begin: Start, talker: Talker, tmp_path: Path, until: Until
) -> None:
    options = ["-name", "vm%d", "-netdev", "user,id=net%d", "-qmp", QMP]
    process = begin("default,machines=3,log=%d.qmp", *options)
    clients = [talker(number) for number in (1, 2, 3)]
    assert [one.cmd("query-name") for one in clients] == [
        {"name": f"vm{number}"} for number in (1, 2, 3)
    ]
    assert clients[1].cmd("netdev_del", id="net2") == {}
    with pytest.raises(CommandError, match="net1"):
        clients[1].cmd("netdev_del", id="net1")
    assert clients[0].cmd("stop") == {}
    assert "running" in str(clients[2].cmd("query-status"))
    clients[1].cmd("quit")
    until(lambda: not (tmp_path / "2.sock").exists())
    assert clients[0].cmd("query-status") == {"running": False, "status": "paused"}
    for one in (clients[0], clients[2]):
        one.cmd("quit")
    assert process.wait(PATIENCE) == 0
    assert '"netdev_del"' in (tmp_path / "2.qmp").read_text()
    assert '"stop"' not in (tmp_path / "2.qmp").read_text()


def test_expectations_are_each_one_s_own(begin: Start, talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("expect = [{ command = 'stop' }]")
    process = begin("a.toml,machines=2", "-qmp", QMP)
    talker(1).cmd("stop")
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


def test_all_listen_before_the_first_one_waits(begin: Start, talker: Talker) -> None:
    begin("default,machines=2", "-qmp", "unix:%d.sock,server=on")
    for number in (2, 1):
        assert "running" in str(talker(number).cmd("query-status"))


def test_all_may_connect_to_one_place(begin: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "here.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        begin("default,machines=2", "-qmp", "unix:here.sock")
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(7) == b'{"QMP":'


@pytest.mark.slow
def test_more_than_the_soft_limit_of_descriptors(begin: Start, talker: Talker) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    begin("default,machines=200", "-qmp", QMP, preexec_fn=few)
    assert talker(200).cmd("query-name") == {}
    assert talker(1).cmd("query-name") == {}


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
def test_refused(begin: Start, tmp_path: Path, fake: str, options: list[str], why: str) -> None:
    process = begin(fake, *options)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert why in said
    assert os.listdir(tmp_path) == []


def test_too_many_for_the_hard_limit(begin: Start) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    process = begin("default,machines=200", "-qmp", QMP, preexec_fn=few)
    _, said = process.communicate(timeout=PATIENCE)
    assert said == (
        "qmpserver: Too many open files: 644 are needed, 64 are allowed (ulimit -n 644)\n"
    )
