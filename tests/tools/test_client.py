"""The client, against servers that send what the test tells them to."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qmpserver.tools.address import ServerAddress
from qmpserver.tools.client import Client
from qmpserver.tools.errors import RefusedError, ServerError

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
EVENT = b'{"event": "X", "timestamp": {"seconds": 1, "microseconds": 1}}\r\n'

Answer = Callable[[socket.socket], object]
Connect = Callable[[Answer], Client]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Connect to a server that negotiates, then answers the first command with a function."""
    clients = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/q")
        listener.listen()

        def serve(answer: Answer) -> None:
            server, _ = listener.accept()
            with server, suppress(OSError):
                server.sendall(GREETING + EVENT)
                server.recv(1000)
                server.sendall(b'{"return": {}}\r\n')
                server.recv(1000)
                answer(server)
                while server.recv(1000):
                    pass

        def begin(answer: Answer) -> Client:
            threading.Thread(target=serve, args=(answer,), daemon=True).start()
            clients.append(Client(ServerAddress(f"{tmp_path}/q"), reply_s=0.5))
            return clients[-1]

        yield begin
        for client in clients:
            client.close()


def sends(*parts: bytes) -> Answer:
    def answer(server: socket.socket) -> None:
        for part in parts:
            server.sendall(part)

    return answer


def test_an_answer_among_events(connect: Connect) -> None:
    client = connect(sends(EVENT, EVENT + b'{"return"', b": 5}\r\n" + EVENT))
    assert client.execute("any") == 5


def test_two_answers_at_once(connect: Connect) -> None:
    client = connect(sends(b'{"return": 1}\r\n{"return": 2}\r\n'))
    start = time.monotonic_ns()
    assert client.execute("any") == 1
    first = client.received
    assert start < first <= time.monotonic_ns()
    assert client.receive("other") == 2
    assert client.received == first


def test_what_is_sent(connect: Connect) -> None:
    def echo(server: socket.socket) -> None:
        server.sendall(b'{"return": 1}\r\n')
        server.sendall(json.dumps({"return": server.recv(1000).decode()}).encode() + b"\n")

    client = connect(echo)
    client.execute("any")
    sent = json.loads(client.execute("set", {"a": 1}))
    assert sent == {"execute": "set", "arguments": {"a": 1}}


def test_refused(connect: Connect) -> None:
    client = connect(sends(b'{"error": {"class": "CommandNotFound", "desc": "no"}}\r\n'))
    with pytest.raises(RefusedError) as raised:
        client.execute("any")
    assert (raised.value.error_class, raised.value.desc) == ("CommandNotFound", "no")
    assert str(raised.value) == "CommandNotFound: no"


@pytest.mark.parametrize("error", [b"5", b"{}", b'{"class": "x"}', b"null"])
def test_refused_in_another_shape(connect: Connect, error: bytes) -> None:
    client = connect(sends(b'{"error": %b}\r\n' % error))
    with pytest.raises(ServerError, match="its answer to any makes no sense"):
        client.execute("any")


def drip(server: socket.socket) -> None:
    while True:
        server.sendall(b"x")
        time.sleep(0.01)


@pytest.mark.parametrize("answer", [drip, lambda server: server.recv(1)])
def test_patience_is_for_the_whole_answer(connect: Connect, answer: Answer) -> None:
    client = connect(answer)
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"no answer to any within 0\.2 s$"):
        client.execute("any", patience=0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_a_message_without_end(connect: Connect) -> None:
    client = connect(sends(b'{"return": "', bytes(11 << 20)))
    with pytest.raises(ServerError, match="it sends a message of over 10 MB"):
        client.execute("any", patience=60)


def test_interrupted(connect: Connect) -> None:
    asked = threading.Event()
    client = connect(lambda server: asked.set())

    def interrupt() -> None:
        asked.wait(10)
        client.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(ServerError, match=r"the server has hung up$"):
        client.execute("any", patience=60)
    thread.join()


def test_no_connection_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, servers = socket.socketpair()
    monkeypatch.setattr(ServerAddress, "connect", lambda *_: mine)
    with servers:
        servers.sendall(b"SSH-2.0\r\n")
        with pytest.raises(ServerError, match="is not QMP"):
            Client(ServerAddress("any"))
    assert mine.fileno() == -1


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for where in (f"{tmp_path}/none", "/" + 200 * "x", ("..", 1)):
        with pytest.raises(ServerError) as raised:
            Client(ServerAddress(where))
        assert str(raised.value).count("\n") == 0
