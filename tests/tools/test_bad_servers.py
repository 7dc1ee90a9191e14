"""What qmpctl says of servers that are none: one line and a status, whatever they do."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.conftest import Run

GREETING = b'{"QMP": {"version": {"qemu": {"major": 1, "minor": 0, "micro": 0}, "package": ""}, '
GREETING += b'"capabilities": []}}\n'

Behaviour = Callable[[socket.socket], None]


def negotiated(client: socket.socket) -> None:
    """Be a good server until the client has negotiated."""
    client.sendall(GREETING)
    request = json.loads(client.recv(1000))  # with no newline at its end
    assert request["execute"] == "qmp_capabilities"
    client.sendall(b'{"return": {}}\n')


def hang(client: socket.socket) -> None:
    while client.recv(1000):
        pass


def then(*steps: Behaviour) -> Behaviour:
    def behave(client: socket.socket) -> None:
        for step in steps:
            step(client)

    return behave


def say(text: bytes) -> Behaviour:
    return lambda client: client.sendall(text)


def a_command(client: socket.socket) -> None:
    client.recv(1000)


BAD: dict[str, tuple[Behaviour, str]] = {
    "no greeting": (
        hang,
        "no QMP greeting: it is no QMP server, or serves another client (after 5 s)",
    ),
    "hangs up": (lambda _client: None, "the server has hung up"),
    "not JSON": (then(say(b"SSH-2.0-OpenSSH_9.2\r\n"), hang), "is not QMP"),
    "not UTF-8": (then(say(b"\xff\xfe\x00\x01\n"), hang), "is not QMP"),
    "JSON, no object": (then(say(b"[1]\n"), hang), "is not QMP"),
    "another greeting": (then(say(b'{"hello": "world"}\n'), hang), "is not QMP"),
    "half a greeting": (say(GREETING[:40]), "is not QMP"),
    "hangs after the greeting": (then(say(GREETING), hang), "no answer to qmp_capabilities"),
    "refuses capabilities": (
        then(say(GREETING), a_command, say(b'{"error": {"class": "GenericError", "desc": "x"}}\n')),
        "",
    ),
    "hangs in the reply": (then(negotiated, a_command, hang), "no answer to query-name within 1 s"),
    "hangs up before the reply": (then(negotiated, a_command), "the server has hung up"),
    "hangs up in the reply": (
        then(negotiated, a_command, say(b'{"return": {"na')),
        "no answer to query-name",
    ),
    "garbage for a reply": (
        then(negotiated, a_command, say(b"\x00garbage\n"), hang),
        "no answer to query-name",
    ),
    "a reply that is none": (
        then(negotiated, a_command, say(b'{"id": 7}\n{"return": {}, "id": 7}\n'), hang),
        "no answer to query-name",
    ),
}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(str(tmp_path / "bad.sock"))
        one.listen()
        yield one


@pytest.mark.parametrize("name", BAD)
def test_one_line(qmpctl: Run, listener: socket.socket, name: str) -> None:
    behave, text = BAD[name]

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            behave(client)

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"unix:{listener.getsockname()}"
    ran = qmpctl("--qmp", address, "exec", "query-name", "--timeout", "1")
    thread.join()
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (3, "", 1), ran.stderr
    assert ran.stderr.startswith(f"qmpctl: {address}: ")
    assert text in ran.stderr


def test_not_there(qmpctl: Run, tmp_path: Path) -> None:
    ran = qmpctl("--qmp", f"unix:{tmp_path}/none", "exec", "query-name")
    text = f"qmpctl: unix:{tmp_path}/none: No such file or directory\n"
    assert (ran.returncode, ran.stderr) == (3, text)


def test_refused(qmpctl: Run) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    ran = qmpctl("--qmp", f"tcp:127.0.0.1:{port}", "exec", "query-name")
    assert ran.returncode == 3
    assert ran.stderr.startswith(f"qmpctl: tcp:127.0.0.1:{port}: ")
    assert ran.stderr.rstrip().endswith("Connection refused")
    assert ran.stderr.count("\n") == 1


def test_no_such_host(qmpctl: Run) -> None:
    ran = qmpctl("--qmp", "tcp:no-such-host.invalid:4", "exec", "query-name")
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)


def test_a_benchmark_of_a_bad_server(qmpctl: Run, listener: socket.socket, tmp_path: Path) -> None:
    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"unix:{listener.getsockname()}"
    ran = qmpctl("bench", "limit", "--qmp", address)
    thread.join()
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)
    assert "no JSON" in ran.stderr
    ran = qmpctl("bench", "limit", "--qmp", f"unix:{tmp_path}/none")
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)
