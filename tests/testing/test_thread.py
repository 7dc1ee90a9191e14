"""`ServerThread` without pytest's fixtures: its life, its end, and the conversation it keeps."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver import CommandError
from qmpserver.monitor import DeviceError
from qmpserver.standin import ScenarioError
from qmpserver.testing import Exactly, MonitorClient, ServerThread, thread
from tests.conftest import Until, require_engine

PATIENCE = 10.0
NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'


@contextlib.contextmanager
def client(path: str) -> Iterator[socket.socket]:
    """A negotiated client."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(PATIENCE)
        connected.connect(path)
        connected.sendall(NEGOTIATE)
        while b'"return"' not in connected.recv(1000):
            pass
        yield connected


def left() -> tuple[int, int, list[str]]:
    directories = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("qmp-")]
    return threading.active_count(), len(os.listdir("/proc/self/fd")), directories


@pytest.fixture(autouse=True)
def nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    tmp_path_factory.getbasetemp()  # made now, not below the directory
    directory = tempfile.mkdtemp(prefix="q")  # short: sockets go there
    monkeypatch.setattr(tempfile, "tempdir", directory)
    before = left()
    yield
    assert left() == before
    os.rmdir(directory)


def test_close_before_and_twice() -> None:
    server = ServerThread()
    assert not server.running
    server.close()
    with server:
        assert server.running
        assert Path(server.path).is_socket()
        server.close()
        assert not server.running
        assert not Path(server.path).parent.exists()
        server.close()
    server.close()


def test_it_is_entered_once() -> None:
    server = ServerThread()
    with server:
        path = server.path
        with pytest.raises(RuntimeError, match="can be entered once: make another one"):
            server.__enter__()
        assert server.path == path
        with client(server.path):
            server.wait_received("qmp_capabilities")
    with pytest.raises(RuntimeError, match="can be entered once"), server:
        pass


def test_a_start_that_fails_leaves_nothing() -> None:
    for _ in range(3):
        server = ServerThread(scenario="no.toml")
        with pytest.raises(ScenarioError, match=r"no\.toml: No such file"), server:
            pass
        assert not server.running
        server.close()
        with pytest.raises(RuntimeError, match="the server has ended: it was closed"):
            server.add_monitor()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none exists, and it says so")
def test_an_accelerator_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="invalid accelerator tcg"), ServerThread(accel="tcg"):
        pass


def test_a_directory_for_which_a_socket_path_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = Path(tempfile.gettempdir()) / ("d" * 100)
    deep.mkdir()
    with monkeypatch.context() as context:
        context.setattr(tempfile, "tempdir", str(deep))
        with pytest.raises(DeviceError, match="too long"), ServerThread():
            pass
    deep.rmdir()  # it is empty


def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerThread()

    def start() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(server._thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"), server:
        pass


@pytest.mark.parametrize("accel", ["fake", "soft"])
def test_after_quit(until: Until, accel: str) -> None:
    if accel == "soft":
        require_engine()
    server = ServerThread(accel=accel)
    with pytest.raises(RuntimeError, match="has not been started: use it in a with block"):
        server.emit("STOP")
    with server:
        with client(server.path) as connected:
            connected.sendall(b'{"execute": "quit"}\n')
            server.wait_event("SHUTDOWN")
            until(lambda: not server.running)
        for ask in (
            lambda: server.emit("STOP"),
            lambda: server.handler("stop"),
            server.add_monitor,
        ):
            with pytest.raises(RuntimeError, match="the server has ended: a client sent quit"):
                ask()
        server.assert_received("qmp_capabilities", "quit")
    with pytest.raises(RuntimeError, match="the server has ended: it was closed"):
        server.emit("STOP")


def test_a_call_that_the_loop_does_not_get_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends while another thread's call waits for its turn."""
    with ServerThread() as server, client(server.path) as connected:
        blocked, go_on = threading.Event(), threading.Event()

        @server.handler("query-name")
        def query_name() -> dict[str, str]:
            blocked.set()
            go_on.wait(PATIENCE)
            assert server._ended is not None
            server._ended.set()
            server._accept_no_more_calls()
            return {}

        connected.sendall(b'{"execute": "query-name"}\n')
        assert blocked.wait(PATIENCE)
        errors: list[BaseException] = []

        def emit() -> None:
            try:
                server.emit("STOP")
            except RuntimeError as error:
                errors.append(error)

        emitting = threading.Thread(target=emit)
        emitting.start()
        while not server._calls:
            pass
        go_on.set()
        emitting.join(PATIENCE)
        assert str(errors[0]).startswith("the server has ended: a client sent quit")
    assert not server.sent("STOP")


def test_a_handler_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    with ServerThread() as server, client(server.path) as connected:
        blocked = threading.Event()

        @server.handler("query-name")
        def query_name() -> dict[str, str]:
            blocked.set()
            release.wait(PATIENCE)
            return {}

        connected.sendall(b'{"execute": "query-name"}\n')
        assert blocked.wait(PATIENCE)
        with monkeypatch.context() as impatient:
            impatient.setattr(thread, "_PATIENCE_S", 0.05)
            with pytest.raises(RuntimeError, match=r"has not responded in 0.05 s: a handler"):
                server.emit("STOP")
        release.set()
        server.emit("RESUME")
        server.wait_event("RESUME")
        assert not server.sent("STOP")  # the call was given up, and is not made late


def test_a_handler_cannot_close_but_emit_and_open() -> None:
    with ServerThread() as server, client(server.path) as connected:

        @server.handler("query-name")
        def query_name() -> dict[str, str]:
            server.emit("STOP")
            with pytest.raises(RuntimeError, match="a handler cannot close the server"):
                server.close()
            return {"name": server.add_monitor()}

        connected.sendall(b'{"execute": "query-name"}\n')
        server.wait_event("STOP")
        reply = b""
        while b'"return"' not in reply:
            reply += connected.recv(1000)
        name = json.loads(reply.splitlines()[-1])["return"]["name"]
        assert name != server.path
        assert Path(name).is_socket()


def test_what_a_function_raises_reaches_the_caller() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    with ServerThread() as server, pytest.raises(TimeoutError, match="its own"):
        server._call(late)


def test_a_waiter_whose_loop_was_closed_costs_no_message() -> None:
    with ServerThread() as server:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # the task is never finished
        waiting = loop.create_task(server.until_received("stop"))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        with client(server.path) as connected:
            connected.sendall(b'{"execute": "stop"}\n{"execute": "query-status"}\n')
            server.wait_received("query-status")
            server.assert_received("qmp_capabilities", "stop", "query-status")
        coroutine = waiting.get_coro()
        assert coroutine is not None
        coroutine.close()


@pytest.mark.parametrize("accel", ["fake", "soft"])
def test_messages_are_kept_once(accel: str) -> None:
    if accel == "soft":
        require_engine()
    with ServerThread(accel=accel) as server:
        with client(server.path), client(server.add_monitor()):
            pass
        assert [(one.client, one.command) for one in server.messages if one.who == "client"] == [
            (1, "qmp_capabilities"),
            (2, "qmp_capabilities"),
        ]
        assert sum(one.is_greeting for one in server.messages) == 2


def ask(connected: socket.socket, command: str, count: int = 1) -> None:
    for _ in range(count):
        connected.sendall(json.dumps({"execute": command}).encode())
        while not connected.recv(1000).endswith(b"\n"):
            pass


NOTE = "earlier messages were dropped, keep=10: a larger number, or None, keeps more"


def test_questions_that_dropped_messages_would_answer() -> None:
    with ServerThread(keep=10) as server, client(server.path) as connected:
        ask(connected, "query-name", 10)
        assert server.conversation.dropped == 13  # greeting, negotiation, five commands
        assert len(server.messages) == 10
        with pytest.raises(AssertionError, match=f"query-name: 5 among: query-name.*; 13 {NOTE}"):
            server.received("query-name")
        with pytest.raises(AssertionError, match=f"message: 5 among: query-name.*; 13 {NOTE}"):
            server.received()
        server.assert_received("query-name", "query-name")
        assert server.received("stop") == []  # none of these was dropped
        assert "after 13 messages that were dropped" in repr(server.received("stop"))
        assert server.sent("STOP") == []
        with pytest.raises(AssertionError, match=f"no qmp_capabilities among: .*; 13 {NOTE}"):
            server.assert_received("qmp_capabilities", "query-name")
        with pytest.raises(AssertionError, match=f"query-name: cannot be counted; 13 {NOTE}"):
            server.wait_received("query-name", count=7)
        with pytest.raises(AssertionError, match=f"query-name: cannot be counted; 13 {NOTE}"):
            server.wait_received("query-name")
        with pytest.raises(AssertionError, match=r"no stop among: [^;]*$"):
            server.assert_received("stop", "query-name")
        with pytest.raises(AssertionError, match=r"stop: none in 0.01 s among: [^;]*$"):
            server.wait_received("stop", patience=0.01)
        assert str(server).startswith("# 13 messages were dropped\n-> ")


def test_all_messages_are_kept_on_request() -> None:
    with ServerThread(keep=None) as server, client(server.path) as connected:
        ask(connected, "query-name", 20)
        assert len(server.messages) == 43
        assert not server.conversation.dropped


PURE = """
import socket, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("cffi", "_cffi_backend", "qmpserver.vm", "qmpserver.cli"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from qmpserver.testing import ServerThread
with ServerThread(smp=2) as server, socket.socket(socket.AF_UNIX) as client:
    client.connect(server.path)
    client.sendall(b'{"execute": "qmp_capabilities"}')
    server.wait_received("qmp_capabilities")
print("served")
"""


MACHINE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "qmpserver.vm.accel.native._native":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
from qmpserver.testing import ServerThread
try:
    with ServerThread(accel="soft"):
        print("served")
except ValueError as error:
    print(error)
"""


def test_a_machine_without_the_engine_says_how_to_get_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MACHINE], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert re.fullmatch("the native engine (was not built|needs).*\n", done.stdout)


@pytest.mark.slow
def test_a_fake_needs_no_native_code() -> None:
    done = subprocess.run([sys.executable, "-c", PURE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("served\n", "")


def test_at_least_and_exactly() -> None:
    with ServerThread() as server, client(server.path) as connected:
        connected.sendall(b'{"execute": "netdev_add", "arguments": {"type": "user", "id": "n"}}')
        connected.sendall(b'{"execute": "set-vcpu-dirty-limit", "arguments": {"dirty-rate": 1}}')
        everything = Exactly(type="user", id="n")
        assert server.wait_received("set-vcpu-dirty-limit", Exactly(dirty_rate=1))
        for some in ({}, {"id": "n"}, everything):
            assert server.received("netdev_add", some)
            server.assert_received(
                ("netdev_add", some), ("set-vcpu-dirty-limit", {"dirty_rate": 1})
            )
        assert server.received("netdev_add", Exactly(type="user"), id="n")
        for other in (Exactly(id="n"), {"id": "m"}, Exactly()):
            assert not server.received("netdev_add", other)
            with pytest.raises(AssertionError, match="no netdev_add"):
                server.assert_received(("netdev_add", other))
        with pytest.raises(AssertionError, match="netdev_add exactly id='n': none"):
            server.wait_received("netdev_add", Exactly(id="n"), patience=0.01)


def test_connections_are_dropped() -> None:
    with ServerThread() as server, MonitorClient(server.add_monitor()) as other:
        with client(server.path) as connected:
            server.disconnect()
            assert connected.recv(100) == b""
        with client(server.path):
            assert other.cmd("query-name") == {}
        (path,) = [one for one in server._listeners if one != server.path]
        server.disconnect(path)
        with pytest.raises(ConnectionError):
            other.cmd("query-name")


def test_restart(accel: str) -> None:
    server = ServerThread(accel=accel, smp=2)
    with pytest.raises(RuntimeError, match="has not been started"):
        server.restart()
    with server:
        more = server.add_monitor()
        server.handler("query-name")(lambda: {"name": "handled"})
        with client(server.path) as connected, MonitorClient(more) as other:
            other.cmd("stop")
            server.restart()
            while connected.recv(1000):
                pass
            with pytest.raises(ConnectionError):
                other.cmd("query-name")
        with MonitorClient(more) as other:
            assert other.cmd("query-status")["status"] == "running"
            assert other.cmd("query-name") == {"name": "handled"}
            other.cmd("quit")
        server.restart()  # the one that has ended by itself
        with MonitorClient(server.path) as other:
            assert other.cmd("query-status")["running"]
        assert len(server.received("quit")) == len(server.received("stop")) == 1
        assert len({one.client for one in server.messages}) == 4
    with pytest.raises(RuntimeError, match="it was closed"):
        server.restart()


def test_a_scenario_lasts_over_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    expected = [{"command": "stop", "times": 2}]
    scenario = {"expect": expected, "strict": True, "log": str(log)}
    with ServerThread(scenario=scenario, version="9.1.2") as server:
        for command in ("nope", "query-name"):
            with MonitorClient(server.path) as one:
                assert one.cmd("query-version")["qemu"]["major"] == 9
                one.cmd("stop")
                with contextlib.suppress(CommandError):
                    one.cmd(command)
            server.restart()
        assert server.failures() == ["refused: nope: The command nope has not been found"]
    assert log.read_text().count('"stop"') == 2


def test_a_handler_of_the_negotiation() -> None:
    with ServerThread() as server:

        @server.handler("qmp_capabilities")
        def negotiate(enable: object = None) -> None:
            raise CommandError("busy")

        with pytest.raises(CommandError, match="busy"):
            MonitorClient(server.path)


def test_a_handler_cannot_restart() -> None:
    with ServerThread() as server, MonitorClient(server.path) as one:
        server.handler("stop")(server.restart)
        with pytest.raises(CommandError, match="a handler cannot restart the server"):
            one.cmd("stop")
