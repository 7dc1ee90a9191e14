"""Memory that clients can cost a stand-in: each store has a bound."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from qmpserver.standin import Scenario, StandIn, expect, server, tap, wire
from qmpserver.standin.expect import Expectations
from qmpserver.standin.faults import Spec
from qmpserver.standin.state import agent, budget
from qmpserver.standin.tap import Tap
from qmpserver.transcript.message import Message
from tests.standin.conftest import PATIENCE, Serve
from tests.standin.test_wire import Peer


async def test_devices_and_backends_are_bounded_together(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "KEPT", 20_000)
    async with serve("default") as served:
        client = await served.client()
        added = 0
        got: Any = {}
        while got == {}:
            added += 1
            name = f"n{added}"
            got = await client.execute(
                *[
                    ("device_add", {"driver": "e1000", "id": name}),
                    ("netdev_add", {"type": "user", "id": name}),
                    ("blockdev-add", {"driver": "null-co", "node-name": name}),
                    ("object-add", {"qom-type": "iothread", "id": name}),
                    ("chardev-add", {"id": name, "backend": {"type": "null", "data": {}}}),
                ][added % 5]
            )
        assert 10 < added < 100
        assert got["desc"] == "a stand-in keeps 20000 bytes of devices, backends and files"
        refused = await client.execute("object-add", {"qom-type": "iothread", "id": "more"})
        assert refused["class"] == "GenericError"
        assert await client.execute("netdev_del", {"id": "n1"}) == {}
        assert await client.execute("object-add", {"qom-type": "iothread", "id": "more"}) == {}


async def test_what_is_removed_leaves_no_trace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "KEPT", 5_000)
    device = {"driver": "virtio-blk-pci", "drive": "n", "id": "d"}
    async with serve("default") as served:
        client = await served.client()
        for number in range(50):
            await client.execute("blockdev-add", {"driver": "null-co", "node-name": "n"})
            assert await client.execute("device_add", {**device, "bootindex": number}) == {}
            stream = {"device": "n", "job-id": f"j{number}"}
            assert await client.execute("block-stream", stream) == {}
            while (await client.event())[0] != "BLOCK_JOB_COMPLETED":
                pass
            client.send("qom-set", {"path": "/machine/peripheral/d", "property": "drive",
                                    "value": "n"})  # fmt: skip
            client.send("device_del", {"id": "d"})
            while (await client.receive()).get("event") != "DEVICE_DELETED":
                pass
            while (await client.receive()).get("event") != "DEVICE_DELETED":
                pass
            assert await client.execute("blockdev-del", {"node-name": "n"}) == {}
        assert served.stand_in._state.budget.take(5_000)


@pytest.mark.slow
async def test_one_entry_is_bounded(serve: Serve) -> None:
    any_device = Scenario.read({}).on_machine({"type": "of another release"})
    async with serve(any_device) as served:
        client = await served.client()
        many, members = ["x" * 100] * 15_000, {f"{n}": "x" * 200 for n in range(8_000)}
        too_large: list[Any] = ["x" * (1 << 20), many, members]
        for large in too_large:
            refused = await client.execute("device_add", {"driver": "e1000", "p": large})
            assert refused["desc"].startswith("the properties are too large: ")
        assert await client.execute("device_add", {"driver": "e1000", "p": "x" * 500_000}) == {}


async def test_files_of_a_guest_agent_are_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "KEPT", 10_000)
    monkeypatch.setattr(agent, "MAX_FILES", 3)
    monkeypatch.setattr(agent, "MAX_PROCESSES", 3)
    async with serve({"schema": "guest-agent"}) as served:
        client = await served.connect()
        file = {"path": "/a", "mode": "w"}
        first, second, _ = [await client.execute("guest-file-open", file) for _ in range(3)]
        refused = await client.execute("guest-file-open", file)
        assert refused["desc"] == "failed to open file '/a' (mode: 'w'): Too many open files"
        text = base64.b64encode(b"x" * 9_000).decode()
        write = {"handle": first, "buf-b64": text}
        assert (await client.execute("guest-file-write", write))["count"] == 9_000
        refused = await client.execute("guest-file-write", write)
        assert refused["desc"] == "failed to write to file: No space left on device"
        await client.execute("guest-file-close", {"handle": second})
        second = await client.execute("guest-file-open", file)  # empties it
        assert (await client.execute("guest-file-write", {**write, "handle": second}))["count"]
        await client.execute("guest-file-close", {"handle": first})
        refused = await client.execute("guest-file-open", {"path": "b" * 2_000, "mode": "w"})
        assert refused["desc"].endswith("(mode: 'w'): No space left on device")
        for _ in range(3):
            await client.execute("guest-exec", {"path": "/x"})
        refused = await client.execute("guest-exec", {"path": "/x"})
        assert refused["desc"].endswith("(Resource temporarily unavailable)'")


async def test_requests_without_an_answer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_UNANSWERED", 10)
    peer = Peer(Spec("not-json"))
    peer.wire.start(peer.owner)
    for number in range(100):
        request = {"execute": "x" * 1000, "id": [number, "y" * 100_000]}
        peer.wire.data_received(json.dumps(request).encode())
    assert len(peer.wire._unanswered) == 10
    assert sum(len(str(one)) for one in peer.wire._unanswered) < 10 * 1000
    peer.wire.close()
    peer.socket.close()


async def test_replies_that_are_held_go_with_their_client(serve: Serve) -> None:
    faults = [{"name": "late-reply", "seconds": 60}, "event-before-reply"]
    async with serve({"fault": faults}) as served:
        for _ in range(5):
            client = await served.client()
            client.send("query-version")
            await until(lambda: served.stand_in._faults[0]._held)  # type: ignore[attr-defined]
            await client.close()
            await until(lambda: not served.stand_in.clients)
            assert not any(fault._held for fault in served.stand_in._faults)  # type: ignore[attr-defined]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that has no event."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def test_commands_are_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expect, "SHOWN_LETTERS", 10)
    scenario = Scenario.read({"expect": [{"command": "netdev_del", "arguments": {"id": "a"}}]})
    expectations = Expectations(scenario.expected, ordered=True)
    deep = '{"a": ' * 900 + "1" + "}" * 900
    for command, arguments in (("netdev_del", '{"id": "' + "x" * 100 + '"}'), ("y" * 100, "{}"),
                               ("netdev_del", deep)):  # fmt: skip
        text = f'{{"execute": "{command}", "arguments": {arguments}}}'
        expectations.take(Message("client", text))
    first, second, last = expectations.unmet()
    assert first.endswith("it was never sent")
    assert second.startswith('  sent with other arguments: {"id": "xx...; {')
    assert last == "commands sent: netdev_del, yyyyyyyyyy..., netdev_del"


async def test_refused_commands_are_shown_in_part() -> None:
    stand_in = StandIn(Scenario.read({"strict": True}))
    with pytest.raises(Exception, match="has not been found"):
        stand_in._commands.find("x" * 1_000_000)
    (refused,) = stand_in.failures()
    assert len(refused) < 1000


async def test_a_message_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "MAX_TOKEN_SIZE", 1000)
    monkeypatch.setattr(tap, "SHOWN", 10)
    said: list[Message] = []
    peer = Peer(Spec("not-json"))
    tapped = Tap(peer.wire, 1, [said.append])
    tapped.start(peer.owner)
    for _ in range(100):
        tapped.data_received(b"[" * 100)
    assert {one.text for one in said} == {"[" * 10}
    assert tapped._splitters["client"].held <= 1000
    tapped.data_received(b"\n]" * 2000 + b'\n{"execute": "stop"}')
    assert said[-1].command == "stop"
    peer.wire.close()
    peer.socket.close()


async def test_events_that_wait_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WAITING_EVENTS", 2)
    late = {"event": "STOP", "after": 60}
    async with serve({"on": [{"command": "query-status", "events": [late]}]}) as served:
        client = await served.client()
        for _ in range(5):
            await client.execute("query-status")
        assert served.stand_in.failures() == [
            "3 events were not sent: no more than 2 can wait for their time"
        ]


async def test_timers_do_not_pile_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"migration-time": 60, "migration-peer": False, "unplug-time": 60}
    async with serve({"machine": machine}) as served:
        handles: list[asyncio.Handle] = []
        later = served.stand_in.later

        def noted(seconds: float, *given: Any) -> asyncio.Handle:
            handle = later(seconds, *given)
            if seconds:
                handles.append(handle)
            return handle

        monkeypatch.setattr(served.stand_in, "later", noted)
        client = await served.client()
        for _ in range(10):
            await client.execute("migrate", {"uri": "tcp:a:1"})
            await client.execute("migrate_cancel")
            await client.execute("query-migrate")  # the cancellation takes a turn
            await client.execute("device_add", {"driver": "e1000", "id": "d"})
            await client.execute("device_del", {"id": "d"})
            await client.execute("system_reset")
        assert len(handles) == 10
        assert all(handle.cancelled() for handle in handles)
