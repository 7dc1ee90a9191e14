"""Migrations that fail or are cancelled: the source's guest runs on, and nothing is left behind.

`ROUNDS=1000 pytest tests/vm/migration/test_failures.py -k nothing` has a thousand fail in a row.
"""

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from qmpserver.migration import wire
from qmpserver.migration.address import parse_uri
from qmpserver.migration.policies.promise import Promise
from qmpserver.qmp import CommandError
from qmpserver.vm.machine.options import NO_UUID
from qmpserver.vm.migration.description import describe
from tests.conftest import PATIENCE, Until
from tests.vm.migration.conftest import NOTHING_PASSED, MakeSide, Side, migrate

ROUNDS = int(os.environ.get("ROUNDS", "30"))
SLOW = {"max-bandwidth": 4 << 20}


def native_threads() -> list[str]:
    """Return the names of all threads but Python's, of which the loop keeps some in a pool."""
    ours = {str(thread.native_id) for thread in threading.enumerate()}
    others = set(os.listdir("/proc/self/task")) - ours
    return sorted(Path(f"/proc/self/task/{tid}/comm").read_text() for tid in others)


async def assert_runs_on(source: Side) -> None:
    assert source.machine.state == "running"
    await source.advance(1000)
    assert not source.machine.accel.engine.limit_in_service


async def begin(source: Side, destination: Side, uri: str) -> None:
    """Start a migration that takes minutes; return when pages are being sent."""
    source.migration.set_parameters(SLOW)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await source.wait(lambda: source.migration.status == "active")


async def test_cancel(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    await begin(source, destination, uri)
    source.migration.cancel()
    assert source.migration.status == "cancelling"
    assert await source.ended() == "cancelled"
    await assert_runs_on(source)
    assert await destination.ended() == "failed"
    assert destination.error == "the peer has closed the connection"


async def test_cancel_before_the_first_step(side: MakeSide, uri: str) -> None:
    source = side()
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    source.migration.cancel()
    assert await source.ended() == "cancelled"
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    assert await source.ended() == "failed"


async def test_the_end_before_the_first_step(side: MakeSide, uri: str) -> None:
    """The listener is closed, too: the fixtures look."""
    destination = side(incoming=True)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    await destination.close()


async def test_the_end_while_it_is_cancelled(side: MakeSide, uri: str) -> None:
    """It releases all that it has, before the machine is closed."""
    source, destination = side(), side(incoming=True)
    await begin(source, destination, uri)
    source.migration.cancel()
    await source.close()
    assert source.migration.status == "cancelled"


async def test_cancel_in_the_pause(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    source.migration.set_capabilities({"pause-before-switchover": True})
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await source.wait(lambda: source.migration.status == "pre-switchover")
    source.migration.cancel()
    assert await source.ended() == "cancelled"
    await assert_runs_on(source)
    assert destination.machine.state == "inmigrate"


async def test_cancel_while_the_state_is_saved(
    side: MakeSide, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest runs on when its state is no longer read: KVM would make the reader wait for it."""
    source, destination = side(), side(incoming=True)
    saving, go_on = threading.Event(), threading.Event()
    save_state = source.machine.accel.save_state

    def slowly() -> dict[str, Any]:
        saving.set()
        assert go_on.wait(PATIENCE)
        return save_state()

    monkeypatch.setattr(source.machine.accel, "save_state", slowly)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    assert await asyncio.to_thread(saving.wait, PATIENCE)
    source.migration.cancel()
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert source.machine.state == "finish-migrate"
        assert source.machine.changing.locked()
    finally:
        go_on.set()
    assert await source.ended() == "cancelled"
    await assert_runs_on(source)


async def test_a_bug_on_the_way_is_a_failure(
    side: MakeSide, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, destination = side(), side(incoming=True)
    monkeypatch.setattr(Promise, "decide", lambda _self, look: 1 / 0)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    assert await source.ended() == "failed"
    assert source.error == "internal error: ZeroDivisionError: division by zero"
    assert "Traceback" in caplog.text
    await assert_runs_on(source)
    assert await destination.ended() == "failed"


async def test_a_bug_at_the_destination_is_a_failure(
    side: MakeSide, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = side(), side(incoming=True)
    monkeypatch.setattr(destination.machine.accel, "load_state", lambda _state: 1 / 0)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    assert await destination.ended() == "failed"
    assert destination.error == "internal error: ZeroDivisionError: division by zero"
    assert await source.ended() == "failed"
    await assert_runs_on(source)


async def test_a_destination_that_dies(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    await begin(source, destination, uri)
    await destination.close()
    assert await source.ended() == "failed"
    assert source.error == "the peer has closed the connection"
    await assert_runs_on(source)


async def test_a_source_that_dies_fails_the_destination(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    await begin(source, destination, uri)
    await source.close()
    assert await destination.ended() == "failed"
    assert destination.machine.state == "inmigrate"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ram": 32 << 20}, "bytes of RAM: 67108864 at the source, 33554432 here"),
        ({"vcpus": 1}, "number of vCPUs: 2 at the source, 1 here"),
    ],
)
async def test_machines_that_differ(
    side: MakeSide, uri: str, options: dict[str, int], words: str
) -> None:
    source, destination = side(), side(incoming=True, **options)
    assert await migrate(source, destination, uri) == ("failed", "failed")
    assert source.error == destination.error == f"the machines differ: {words}"
    await assert_runs_on(source)
    assert destination.machine.failure == f"load of migration failed: {source.error}"


async def test_uuids_that_differ(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    source.migration.set_capabilities({"validate-uuid": True})
    received = source.machine.uuid = NO_UUID[:-1] + "1"
    local = destination.machine.uuid = NO_UUID[:-1] + "2"
    assert await migrate(source, destination, uri) == ("failed", "failed")
    assert source.error == f"UUID received is {received} and local is {local}"
    await assert_runs_on(source)


@pytest.mark.parametrize("uuids", ["11", "01", "10"])  # their last digits
async def test_uuids_that_do_not(side: MakeSide, uri: str, uuids: str) -> None:
    source, destination = side(), side(incoming=True)
    source.migration.set_capabilities({"validate-uuid": True})
    source.machine.uuid, destination.machine.uuid = (NO_UUID[:-1] + one for one in uuids)
    assert await migrate(source, destination, uri) == ("completed", "completed")


async def test_nobody_listens(side: MakeSide, tmp_path: Path) -> None:
    source = side()
    source.migration.start(parse_uri(f"unix:{tmp_path}/nobody"), NOTHING_PASSED)
    assert await source.ended() == "failed"
    assert source.error == f"Failed to connect to '{tmp_path}/nobody': No such file or directory"
    await assert_runs_on(source)


@pytest.mark.parametrize(
    ("junk", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "expected a control frame, got the bytes"),
        (wire.HEADER.pack(wire.CONTROL, 0, 1 << 40, 0), "a control frame of 1099511627776 bytes"),
        (wire.HEADER.pack(wire.CONTROL, 0, 4, 0) + b"{{{{", "a control frame that is not JSON"),
        (wire.HEADER.pack(wire.CONTROL, 0, 2, 0) + b"[]", 'a control frame without a "type"'),
        (wire.encode("go"), "expected the message 'hello', got 'go'"),
        (wire.encode("hello"), "the machines differ: version of the stream: None at the source"),
        (wire.encode("hello", a="x" * wire.MAX_HELLO), "bytes; 2 to 65536 are allowed"),
        (b"", "the peer has closed the connection"),
    ],
)
async def test_junk(side: MakeSide, tmp_path: Path, uri: str, junk: bytes, words: str) -> None:
    destination = side(incoming=True)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/m.sock")
        client.sendall(junk)
        client.shutdown(socket.SHUT_WR)
        assert await destination.ended() == "failed"
    assert words in destination.error
    assert destination.machine.state == "inmigrate"


async def test_a_long_reason_is_kept_in_part(side: MakeSide, tmp_path: Path, uri: str) -> None:
    destination = side(incoming=True)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/m.sock")
        client.sendall(wire.encode("error", desc="x" * 60_000))
        assert await destination.ended() == "failed"
    assert destination.error == "x" * wire.MAX_REASON + "..."


async def test_a_source_refuses_answers_of_another_kind(side: MakeSide, tmp_path: Path) -> None:
    source = side()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/m")
        server.listen()
        source.migration.start(parse_uri(f"unix:{tmp_path}/m"), NOTHING_PASSED)
        connection, _ = await asyncio.to_thread(server.accept)
        with connection:
            connection.sendall(wire.encode("welcome") + wire.encode("ready"))
            assert await source.ended() == "failed"
    assert "expected the message" in source.error
    await assert_runs_on(source)


async def test_refusals(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    with pytest.raises(CommandError, match="'-incoming' was not specified on the command line"):
        await source.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    with pytest.raises(CommandError, match="Guest is waiting for an incoming migration"):
        destination.migration.start(parse_uri(uri), NOTHING_PASSED)
    await begin(source, destination, uri)
    with pytest.raises(CommandError, match="There's a migration process in progress"):
        source.migration.start(parse_uri(uri), NOTHING_PASSED)
    with pytest.raises(CommandError, match="The incoming migration has already been started"):
        await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    source.migration.set_parameters({"max-bandwidth": 0})
    assert await source.ended() == "completed"
    with pytest.raises(CommandError, match="paused due to previous migration"):
        source.migration.start(parse_uri(uri), NOTHING_PASSED)


async def test_failures_leave_nothing(side: MakeSide, tmp_path: Path, until: Until) -> None:
    source = side()
    await source.advance(1000)  # KVM starts a thread of its own when a vCPU runs first
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/m")
        server.listen()
        server.setblocking(False)
        open_files = len(os.listdir("/proc/self/fd"))
        threads = native_threads()
        for number in range(ROUNDS):
            source.migration.start(parse_uri(f"unix:{tmp_path}/m"), NOTHING_PASSED)
            connection, _ = await asyncio.get_running_loop().sock_accept(server)
            with connection:
                if number % 3:
                    connection.sendall(wire.encode("welcome"))
                if number % 3 == 2:
                    await source.wait(lambda: source.migration.status == "active")
            await source.ended()
            assert source.migration.status == "failed"
        assert len(os.listdir("/proc/self/fd")) == open_files
        # A thread that has connected may be about to end.
        await asyncio.to_thread(until, lambda: native_threads() == threads)
    await assert_runs_on(source)


@pytest.mark.slow
async def test_a_destination_that_ends_at_any_moment_leaves_nothing(
    side: MakeSide, tmp_path: Path
) -> None:
    """The fixture counts: threads and descriptors, also those that were being made."""
    for turn in range(12):
        await end_when_active(side(ram=4 << 20), side(incoming=True, ram=4 << 20), tmp_path, turn)


async def end_when_active(source: Side, destination: Side, directory: Path, turns: int) -> None:
    """Close the destination so many turns of the loop after it has become active."""
    for one in (source, destination):
        one.migration.set_capabilities({"multifd": bool(turns % 2)})
    source.migration.set_parameters(SLOW)
    uri = f"unix:{directory}/{turns}"
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await destination.wait(lambda: destination.migration.status == "active")
    for _ in range(turns):
        await asyncio.sleep(0)
    await destination.close()
    assert await source.ended() == "failed"
    await source.close()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_source_that_dies_before_its_data_channels(
    side: MakeSide, tmp_path: Path, uri: str, silent: bool
) -> None:
    """Also if it has sent more than was read, and while a stranger is listened to."""
    destination = side(incoming=True)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    with socket.socket(socket.AF_UNIX) as main, socket.socket(socket.AF_UNIX) as stranger:
        main.connect(f"{tmp_path}/m.sock")
        hello = describe(destination.machine, identify=False)
        main.sendall(wire.encode("hello", **hello, channels=2, cookie="x"))
        main.sendall(wire.encode("state"))
        if silent:
            stranger.connect(f"{tmp_path}/m.sock")
        main.shutdown(socket.SHUT_WR)
        assert await destination.ended() == "failed"
    assert destination.error == "the peer has closed the connection"
    assert destination.machine.state == "inmigrate"


async def test_a_data_channel_that_says_nothing_is_closed(side: MakeSide, tmp_path: Path) -> None:
    destination = side(incoming=True)
    uri = f"unix:{tmp_path}/m"
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED, exit_on_error=False)
    main, silent = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    loop = asyncio.get_running_loop()
    with main, silent:
        for one in (main, silent):
            one.connect(f"{tmp_path}/m")
            one.setblocking(False)
        hello = describe(destination.machine, identify=False)
        await loop.sock_sendall(main, wire.encode("hello", **hello, channels=1, cookie="x"))
        assert await loop.sock_recv(main, 1000)  # it is welcome; the next one accepted is silent
        await destination.close()
        assert not await loop.sock_recv(silent, 1000)


async def test_a_place_in_a_fifo(side: MakeSide, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m")
    source = side()
    source.migration.start(parse_uri(f"file:{tmp_path}/m,offset=4096"), NOTHING_PASSED)
    assert await source.ended() == "failed"
    assert source.error == "Illegal seek"
    await assert_runs_on(source)
