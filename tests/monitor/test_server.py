"""Clients on real sockets: order, fairness, vanishing, events, the end."""

import array
import asyncio
import contextlib
import itertools
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from qemu.qmp import QMPClient
from qemu.qmp.qmp_client import ExecuteError

import qmpserver.monitor.client
from qmpserver.keyval import OptionError
from qmpserver.monitor import Server, executions
from qmpserver.monitor.channel import Channel
from qmpserver.monitor.relay import Relay
from qmpserver.monitor.socket_devices import ACCEPTED
from tests.monitor.conftest import Peer, until

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands, Connect


@pytest.fixture
def path(directory: Path) -> str:
    return str(directory / "q")


async def listen(server: Server, path: str, **options: Any) -> None:
    await server.serve_unix(path, **options)


async def test_qemus_own_client(server: Server, path: str, commands: "Commands") -> None:
    await listen(server, path)
    client = QMPClient("test")
    await client.connect(path)
    assert client.greeting is not None
    assert client.greeting.QMP.capabilities == ["oob"]
    assert await client.execute("echo", {"a": [1]}) == {"a": [1]}
    with pytest.raises(ExecuteError, match="not now"):
        await client.execute("refuse")
    with client.listener("STOP") as listener:
        assert await client.execute("stop") == {}
        event = await asyncio.wait_for(listener.get(), 10)
        assert event["event"] == "STOP"
    await client.disconnect()


async def test_one_client_at_a_time(server: Server, path: str, connect: "Connect") -> None:
    await listen(server, path)
    first = await connect(path)
    await first.negotiate()
    second = await connect(path)
    second.send(b'{"execute": "qmp_capabilities"}')
    assert await first.execute(b'{"execute": "echo"}') == {"return": {}}
    assert server.clients == 1
    first.close()
    assert "QMP" in await second.receive()
    assert await second.receive() == {"return": {}}


async def test_many_clients_are_not_accepted_at_once(server: Server, path: str) -> None:
    await server.serve_unix(path, max_clients=100)
    with contextlib.ExitStack() as stack:
        for _ in range(4 * ACCEPTED):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        served = [0]
        while served[-1] < 4 * ACCEPTED:
            await asyncio.sleep(0)  # others are served
            served.append(server.clients)
        assert max(b - a for a, b in itertools.pairwise(served)) == ACCEPTED


async def test_max_clients(server: Server, path: str, connect: "Connect") -> None:
    await server.serve_unix(path, max_clients=2)
    first, second, third = [await connect(path) for _ in range(3)]
    await first.negotiate()
    await second.negotiate()
    assert server.clients == 2
    second.close()
    await third.negotiate()
    assert (await first.execute(b'{"execute": "stop"}'))["event"] == "STOP"
    assert (await third.receive())["event"] == "STOP"


async def test_clients_are_served_in_batches(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    """A client that sends many commands at once does not hold up the others."""
    await server.serve_unix(path, max_clients=2)
    greedy, modest = [await connect(path) for _ in range(2)]
    await greedy.negotiate()
    await modest.negotiate()
    many = 500
    greedy.send(b'{"execute": "echo"}' * many)
    modest.send(b'{"execute": "silent"}{"execute": "echo", "id": 1}')
    while (await modest.receive()) != {"return": {}, "id": 1}:
        pass
    assert commands.executed.index("silent") < many / 2
    for _ in range(many):
        assert await greedy.receive() == {"return": {}}
    assert commands.executed.count("echo") == many + 1


@pytest.mark.slow
@pytest.mark.parametrize("junk", [b"}", b"1 ", b"\xff", b"[]", b'{"id":"\\u00e9"}', b"[[]],"])
async def test_junk_is_read_in_batches(
    server: Server, path: str, connect: "Connect", junk: bytes
) -> None:
    """What is no command is not dealt with at the expense of others either."""
    await server.serve_unix(path, max_clients=2)
    rude, modest = [await connect(path) for _ in range(2)]
    await rude.negotiate()
    await modest.negotiate()
    sessions = [executor.session for executor in server._executors]
    before = {id(session): session.work for session in sessions}
    rude.send(junk * (16_000 // len(junk)))
    modest.send(b'{"execute": "echo"}')
    assert await modest.receive() == {"return": {}}
    done = [session.work - before[id(session)] for session in sessions]
    assert max(done) < 100  # of thousands
    # All of it is answered in the end.
    rude.send(b'\xff{"execute": "echo", "id": "end"}')
    while (await rude.receive()).get("id") != "end":
        pass


async def test_a_new_client_begins_anew(server: Server, path: str, connect: "Connect") -> None:
    await listen(server, path)
    first = await connect(path)
    await first.negotiate(oob=True)
    first.send(b'{"execute": ')
    first.close()
    second = await connect(path)
    assert "QMP" in await second.receive()
    reply = await second.execute(b'{"execute": "echo"}')
    assert reply["error"]["class"] == "CommandNotFound"


async def test_plain_handlers_make_no_task(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    before = len(asyncio.all_tasks())
    assert await peer.execute(b'{"execute": "echo", "arguments": {"a-b": 1}, "id": 1}') == {
        "return": {"a_b": 1},
        "id": 1,
    }
    assert commands.tasks == before


class Writes(Relay):
    """A connection that keeps each write."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.all: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.all.append(data)
        super().write(data)


async def test_replies_to_one_packet_are_one_write(server: Server) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    writes = Writes(Channel(loop, theirs))
    server.connect(writes, "other")
    with ours:
        await loop.sock_recv(ours, 4096)
        negotiation = b'{"execute": "qmp_capabilities"}'
        await loop.sock_sendall(ours, negotiation + b'{"execute": "echo"}' * 3)
        await loop.sock_recv(ours, 4096)
        # With the events that commands cause among them.
        await loop.sock_sendall(ours, b'{"execute": "stop"}')
        await loop.sock_recv(ours, 4096)
        await server.close()
    _, replies, stopped = writes.all
    assert replies == b'{"return": {}}\r\n' * 4
    assert stopped.count(b"\r\n") == 2


async def test_in_order_while_a_coroutine_is_awaited(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}{"execute": "echo", "id": 2}[]{"execute": "silent"}')
    await commands.blocked.wait()
    assert commands.executed == ["block"]
    commands.released.set()
    assert await peer.receive() == {"return": {"blocked": True}}
    assert await peer.receive() == {"return": {}, "id": 2}
    assert "error" in await peer.receive()
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}
    assert commands.executed == ["block", "echo", "silent", "echo"]


async def test_out_of_band_overtakes(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate(oob=True)
    peer.send(b'{"execute": "block", "id": 1}{"execute": "echo", "id": 2}')
    await commands.blocked.wait()
    peer.send(b'{"exec-oob": "release", "id": 3}{"exec-oob": "echo", "id": 4}')
    replies = [await peer.receive() for _ in range(4)]
    assert [reply["id"] for reply in replies] == [3, 4, 1, 2]
    assert replies[1]["error"]["desc"] == "The command echo does not support OOB"


async def test_errors_of_commands(server: Server, path: str, connect: "Connect") -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    for command, error_class, desc in [
        (b'"refuse"', "DeviceNotActive", "not now"),
        (b'"nope"', "CommandNotFound", "The command nope has not been found"),
        (b'"echo", "arguments": {"bad": 1}', "GenericError", "Parameter 'bad' is unexpected"),
    ]:
        reply = await peer.execute(b'{"execute": %b}' % command)
        assert reply == {"error": {"class": error_class, "desc": desc}}


@pytest.mark.parametrize("name", ["boom", "nonsense"])
async def test_a_broken_handler_is_reported_and_harms_nothing_else(
    server: Server,
    path: str,
    connect: "Connect",
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    reply = await peer.execute(b'{"execute": "%b", "id": 1}' % name.encode())
    assert reply["id"] == 1
    assert f"Internal error in command {name}" in reply["error"]["desc"]
    assert caplog.records[0].exc_info is not None
    assert await peer.execute(b'{"execute": "echo"}') == {"return": {}}


async def test_a_client_that_vanishes_mid_command(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    first = await connect(path)
    await first.negotiate()
    first.send(b'{"execute": "block"}{"execute": "echo"}')
    await commands.blocked.wait()
    first.close()
    second = await connect(path)
    await second.negotiate()
    commands.released.set()
    assert await second.execute(b'{"execute": "echo", "id": 5}') == {"return": {}, "id": 5}
    # What the first had waiting went with it.
    assert commands.executed == ["block", "echo"]


async def test_commands_whose_clients_left_are_bounded(
    server: Server,
    path: str,
    connect: "Connect",
    commands: "Commands",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executions, "MAX_LEFT", 3)
    await listen(server, path)
    tasks = []
    for _ in range(5):
        peer = await connect(path)
        await peer.negotiate()
        commands.blocked.clear()
        peer.send(b'{"execute": "block"}')
        await commands.blocked.wait()
        assert commands.task is not None
        tasks.append(commands.task)
        peer.close()
        await until(lambda: server.clients == 0)
    await until(lambda: tasks[-1].done())
    assert [task.done() for task in tasks] == [False, False, False, True, True]
    commands.released.set()  # the others are as if nobody had left
    await until(lambda: all(task.done() for task in tasks))
    assert [task.cancelled() for task in tasks] == [False, False, False, True, True]
    last = await connect(path)
    await last.negotiate()
    assert await last.execute(b'{"execute": "block"}') == {"return": {"blocked": True}}


async def test_input_of_a_client_that_left_is_dropped(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    [executor] = server._executors
    peer.send(b'{"execute": "echo"}{"execute": "echo", "id": "' + b"x" * 500_000)
    await until(lambda: executor.session._backlog > 500_000)
    peer.close()
    await until(lambda: server.clients == 0)
    assert executor.session._backlog == 0


async def test_what_was_sent_before_the_end_of_input_is_answered(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}{"execute": "echo"}')
    peer.writer.write_eof()
    await commands.blocked.wait()
    commands.released.set()
    assert await peer.ends() == b'{"return": {"blocked": true}}\r\n{"return": {}}\r\n'


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_not_served(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await server.serve_unix(path, max_clients=2)
    peer, other = await connect(path), await connect(path)
    await peer.negotiate()
    await other.negotiate()
    text = "x" * 10_000
    count = 2000
    message = json.dumps({"execute": "echo", "arguments": {"a": text}}).encode()
    peer.send(message * count)
    # Twice in a row nothing more was executed, though the other is served: it has stopped.
    seen = -1
    while (done := len(commands.executed)) != seen:
        seen = done
        for _ in range(100):
            await other.execute(b'{"execute": "nope"}')
    most = qmpserver.monitor.client.MAX_UNSENT_REPLIES + 4 * 1024 * 1024
    assert len(commands.executed) * len(text) < most
    # Nor is more read than that: the rest stays with the client.
    unread = peer.writer.transport.get_write_buffer_size()
    assert unread > len(message) * count - most
    # And nothing is lost.
    for _ in range(count):
        assert await peer.receive() == {"return": {"a": text}}


async def test_small_commands_with_big_replies_wait_for_the_client_too(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    with socket.socket(socket.AF_UNIX) as sock:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await loop.sock_connect(sock, path)
        big = b'{"execute": "big"}' * 99
        await loop.sock_sendall(sock, b'{"execute": "qmp_capabilities"}' + big)
        received = await loop.sock_recv(sock, 4096)
        assert 0 < len(commands.executed) < 50
        while received.count(b"\n") < 101:
            received += await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 10)
    assert commands.executed == ["big"] * 99


async def test_replies_of_a_batch_are_sent_before_they_are_many(
    server: Server,
    path: str,
    connect: "Connect",
    commands: "Commands",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qmpserver.monitor.client, "MAX_UNSENT_REPLIES", 1000)
    waiting: list[int] = []

    @commands.registry.command("big", replace=True)
    def big() -> str:
        waiting.extend(executor.session.output_size for executor in server._executors)
        return "x" * 900

    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "big"}' * 20)
    for _ in range(20):
        await peer.receive()
    assert 0 < max(waiting) <= 1000


async def test_a_client_with_too_many_unsent_events_is_disconnected(
    server: Server,
    path: str,
    connect: "Connect",
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(qmpserver.monitor.client, "MAX_UNSENT_EVENTS", 100_000)
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    cast("asyncio.Transport", peer.writer.transport).pause_reading()
    for _ in range(10_000):
        server.emit("STOP", {"filler": "x" * 100})
        if not server.clients:
            break
    assert server.clients == 0
    assert "does not read" in caplog.text


async def test_a_long_reply_counts_for_no_event(
    server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmpserver.monitor.client, "MAX_UNSENT_EVENTS", 100_000)
    filler = "x" * 900_000
    server.registry.command("big", replace=True)(lambda: filler)
    await listen(server, path)
    peer = Peer(*await asyncio.open_unix_connection(path, limit=len(filler) + 100))
    await peer.negotiate()
    transport = cast("asyncio.Transport", peer.writer.transport)
    transport.pause_reading()
    peer.send(b'{"execute": "big"}')
    await until(lambda: any(each.channel.unsent > 200_000 for each in server._executors))
    server.emit("STOP")
    transport.resume_reading()
    assert (await peer.receive())["return"] == filler
    assert (await peer.receive())["event"] == "STOP"
    transport.close()


async def test_events(server: Server, path: str, connect: "Connect") -> None:
    await server.serve_unix(path, max_clients=2)
    ready, fresh = await connect(path), await connect(path)
    await ready.negotiate()
    assert "QMP" in await fresh.receive()
    server.emit("STOP", {"a": 1})
    event = await ready.receive()
    assert list(event) == ["timestamp", "event", "data"]
    assert event["data"] == {"a": 1}
    # An event that a command causes comes before its reply.
    ready.send(b'{"execute": "stop"}')
    assert "event" in await ready.receive()
    assert "return" in await ready.receive()
    # The other has seen neither.
    assert await fresh.execute(b'{"execute": "qmp_capabilities"}') == {"return": {}}


async def test_events_are_held_against_the_schema(server: Server) -> None:
    with pytest.raises(ValueError, match="bad"):
        server.emit("STOP", {"bad": 1})
    with pytest.raises(KeyError):
        server.emit("NOPE")


async def test_pretty(server: Server, path: str, connect: "Connect") -> None:
    await listen(server, path, pretty=True)
    peer = await connect(path)
    assert await peer.line() == b"{\r\n"
    assert await peer.line() == b'    "QMP": {\r\n'
    while await peer.line() != b"}\r\n":
        pass
    peer.send(b'{"execute": "qmp_capabilities"}')
    assert [await peer.line() for _ in range(4)] == [
        b"{\r\n",
        b'    "return": {\r\n',
        b"    }\r\n",
        b"}\r\n",
    ]
    server.emit("STOP")
    assert [await peer.line() for _ in range(2)] == [b"{\r\n", b'    "timestamp": {\r\n']


async def test_file_descriptors(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    sock = peer.writer.get_extra_info("socket")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer]))]
        raw.sendmsg([b'{"execute": "take-fd"}'], rights)
    assert await peer.receive() == {"return": {}}
    [received] = commands.fds
    assert os.get_blocking(received)
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    assert os.read(reader, 10) == b"through"
    for fd in (received, reader, writer):
        os.close(fd)
    refusal = await peer.execute(b'{"execute": "take-fd"}')
    assert refusal["error"]["desc"] == "No file descriptor supplied via SCM_RIGHTS"


async def test_close_lets_commands_end_and_sends_their_replies(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    with pytest.raises(FileNotFoundError):
        await connect(path)
    commands.released.set()
    assert await peer.ends() == b'{"return": {"blocked": true}}\r\n'
    await closing
    assert server.clients == 0


async def test_close_does_not_wait_for_ever(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    await commands.blocked.wait()
    await server.close(grace=0)
    assert await peer.ends() == b""
    assert commands.task is not None
    assert commands.task.cancelled()


async def test_wait_for_the_first_client(server: Server, path: str, connect: "Connect") -> None:
    device = await server.open_monitor(f"unix:{path},server=on")
    assert device.waits
    assert device.filename == f"disconnected:unix:{path},server=on"
    waiting = asyncio.create_task(device.wait_connected())
    await asyncio.sleep(0)
    assert not waiting.done()
    peer = await connect(path)
    await asyncio.wait_for(waiting, 10)
    assert "QMP" in await peer.receive()
    assert device.filename == f"unix:{path},server=on"
    again = await server.open_monitor(f"unix:{path}2,server=on,wait=off")
    assert not again.waits


async def test_monitors_on_devices_by_name(server: Server, path: str, connect: "Connect") -> None:
    await server.add_chardev(f"socket,id=c0,path={path},server=on,wait=off")
    device = server.add_monitor("chardev=c0,mode=control,pretty=on")
    assert (device.id, device.attached) == ("c0", True)
    assert await (await connect(path)).line() == b"{\r\n"
    for options, words in [
        ("c1,mode=control", 'chardev "c1" not found'),
        ("c0,mode=control", "Device 'c0' is in use"),
        ("c0,mode=x", "Parameter 'mode' does not accept value 'x'"),
        ("c0,foo=x", "Invalid parameter 'foo'"),
        ("mode=control", "Parameter 'chardev' is missing"),
    ]:
        with pytest.raises(OptionError) as refusal:
            server.add_monitor(options)
        assert str(refusal.value) == words
    with pytest.raises(OptionError, match="Duplicate ID 'c0' for chardev"):
        await server.add_chardev("null,id=c0")
    await server.add_chardev(f"socket,id=c2,path={path}2,server=on,wait=off")
    assert (await server.open_monitor("chardev:c2")).id == "c2"


async def test_close_ends_what_clients_left_behind(
    server: Server, path: str, connect: "Connect", commands: "Commands"
) -> None:
    """What a command acts on is gone after that."""
    await listen(server, path)
    peer = await connect(path)
    await peer.negotiate()
    peer.send(b'{"execute": "block"}')
    async with asyncio.timeout(10):
        await commands.blocked.wait()
    peer.close()
    await until(lambda: server.clients == 0)
    assert commands.task is not None
    assert not commands.task.done()
    async with asyncio.timeout(10):
        await server.close(grace=0.1)
    assert commands.task.cancelled()
