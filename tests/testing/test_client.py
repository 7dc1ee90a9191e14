"""The small client, beside a stand-in and beside servers that send anything."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmpserver import CommandError
from qmpserver.testing import MonitorClient, ServerThread

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
NEGOTIATED = b'{"return": {}, "id": 1}\r\n'
EVENT = b'{"event": "X", "data": {"a-b": 1}, "timestamp": {}}\r\n'

Says = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Says]:
    """Serve one client, with a text before each thing that it sends; return the socket's path."""
    path = f"{tmp_path}/q"
    threads = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve(texts: tuple[bytes, ...]) -> None:
            server, _ = listener.accept()
            with server:
                for text in texts:
                    server.sendall(text)
                    server.recv(1000)

        def begin(*texts: bytes) -> str:
            threads.append(threading.Thread(target=serve, args=(texts,)))
            threads[-1].start()
            return path

        yield begin
        for thread in threads:
            thread.join(10)


def test_results_errors_and_events() -> None:
    with ServerThread() as server, MonitorClient(server.path) as client:
        assert client.cmd("query-name") == {}
        assert client.events == []
        assert client.pull_event() is None
        client.cmd("stop")
        assert client.wait_event("STOP") == ("STOP", {})
        client.cmd("cont")
        assert client.wait_event("RESUME").name == "RESUME"
        assert [event.name for event in client.events] == ["STOP", "RESUME"]
        pulled = client.pull_event(wait=5.0)
        assert pulled is not None
        assert pulled["event"] == "STOP"
        assert pulled["timestamp"]["seconds"] > 0
        server.emit("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
        assert client.wait_event("SHUTDOWN", guest=True).data["reason"] == "guest-panic"
        with pytest.raises(AssertionError, match=r"SHUTDOWN guest=False: none in 0\.01 s among"):
            client.wait_event("SHUTDOWN", guest=False, patience=0.01)
        with pytest.raises(CommandError, match=r"^Parameter 'id' is missing$") as refused:
            client.cmd("device_del")
        assert refused.value.error_class == "GenericError"
        with pytest.raises(CommandError) as refused:
            client.cmd("no-such")
        assert refused.value.error_class == "CommandNotFound"
        assert server.received("device_del") == [("device_del", {})]
        client.cmd("device_add", driver="virtio-net-pci", id="nic0")
        assert server.received("device_add", driver="virtio-net-pci", id="nic0")
    assert [event.name for event in client.events] == ["STOP", "RESUME", "SHUTDOWN"]


def test_events_are_pulled_once_and_waited_for() -> None:
    with ServerThread() as server, MonitorClient(server.path) as client:
        client.cmd("stop")
        assert client.pull_event(wait=5.0) is not None
        assert client.pull_event() is None
        with pytest.raises(TimeoutError, match=r"^no event within 0\.01 s$"):
            client.pull_event(wait=0.01)


def test_on_one_loop_after_the_other() -> None:
    async def pause(client: MonitorClient) -> None:
        _, event = await asyncio.gather(client.execute("stop"), client.event("STOP"))
        assert event.data == {}
        await client.execute("set-vcpu-dirty-limit", {"dirty-rate": 64})
        with pytest.raises(CommandError, match="no-such"):
            await client.execute("no-such")

    async def both(client: MonitorClient) -> None:
        status, name = await asyncio.gather(
            client.execute("query-status"), client.execute("query-name")
        )
        assert (status["status"], name) == ("paused", {})

    with ServerThread() as server, MonitorClient(server.path) as client:
        asyncio.run(pause(client))
        asyncio.run(both(client))
        assert client.cmd("query-status")["status"] == "paused"
        assert server.received("set-vcpu-dirty-limit", dirty_rate=64)


def test_on_no_loop_of_asyncio() -> None:
    """As on trio: nothing is sent."""
    with ServerThread() as server, MonitorClient(server.path) as client:
        with pytest.raises(RuntimeError, match="no running event loop"):
            client.execute("stop").send(None)
        assert client.cmd("query-status")["running"]
        assert not server.received("stop")


def test_an_answer_that_nobody_waits_for_any_more() -> None:
    """The next answer is the next command's; events are received meanwhile."""
    with ServerThread() as server, MonitorClient(server.path) as client:
        release = threading.Event()

        @server.handler("query-name")
        async def query_name() -> dict[str, str]:
            await asyncio.to_thread(release.wait, 10)
            return {"name": "late"}

        client.patience = 0.05
        with pytest.raises(TimeoutError, match=r"^no answer to query-name within 0\.05 s$"):
            client.cmd("query-name")
        with pytest.raises(TimeoutError, match=r"^no answer to query-name within 0\.05 s$"):
            asyncio.run(client.execute("query-name"))
        client.patience = 10.0
        release.set()
        assert client.cmd("query-status")["status"] == "running"


def test_from_many_threads() -> None:
    with ServerThread() as server, MonitorClient(server.path) as client:
        wrong = []

        def ask() -> None:
            for _ in range(20):
                if client.cmd("query-status")["status"] != "running":
                    wrong.append("query-status")
                if client.cmd("query-name") != {}:
                    wrong.append("query-name")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(server.received("query-status")) == 80


def ask_for_ever(client: MonitorClient) -> None:
    while True:
        client.cmd("query-name")


def test_the_end_of_the_connection() -> None:
    with ServerThread() as server, MonitorClient(server.path) as client:
        client.cmd("quit")
        with pytest.raises(ConnectionError, match=r"^the server has hung up"):
            ask_for_ever(client)
        with pytest.raises(ConnectionError, match=r"^the server has hung up"):
            asyncio.run(client.execute("query-name"))
        client.close()
    assert client.wait_event("SHUTDOWN", reason="host-qmp-quit")


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "^the server has hung up$"),
        (b"SSH-2.0\r\n", "^it sent text that is not QMP: b'SSH-2.0'$"),
        (b"[1]\r\n", "^it sent text that is not QMP:"),
    ],
)
def test_a_server_that_does_not_speak_qmp(says: Says, sent: bytes, error: str) -> None:
    path = says(*filter(None, [sent]))
    with pytest.raises(ConnectionError, match=error):
        MonitorClient(path)


def test_a_silent_server(says: Says) -> None:
    path = says(GREETING[:9])
    with pytest.raises(TimeoutError, match=r"^no QMP greeting: .* \(after 0\.05 s\)$"):
        MonitorClient(path, patience=0.05)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MonitorClient(f"{tmp_path}/none")


def test_answers_of_other_requests_are_ignored(says: Says) -> None:
    answers = (
        b'{"return": 1, "id": 1}\r\n'
        b'{"return": 2, "id": {"not": "mine"}}\r\n'
        b'{"return": 3, "id": 77}\r\n'
        b'{"return": 4}\r\n' + EVENT + b'{"return": 5, "id": 2}\r\n'
    )
    with MonitorClient(says(GREETING, NEGOTIATED, answers)) as client:
        assert client.cmd("any") == 5
        assert client.events == [("X", {"a-b": 1})]
        assert client.wait_event("X", a_b=1, patience=0)


def test_what_is_sent() -> None:
    with ServerThread() as server:
        with MonitorClient(server.path) as client:
            client.cmd("stop")
            client.cmd("set-vcpu-dirty-limit", **{"dirty-rate": 64})
        sent = [message.value for message in server.messages if message.who == "client"]
    assert sent == [
        {"execute": "qmp_capabilities", "id": 1},
        {"execute": "stop", "id": 2},
        {"execute": "set-vcpu-dirty-limit", "arguments": {"dirty-rate": 64}, "id": 3},
    ]
