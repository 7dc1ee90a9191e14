"""Each fault as a client sees it, byte by byte where that matters."""

import asyncio
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from qmpserver.standin import Scenario, ScenarioError, StandIn, faults
from tests.standin.conftest import PATIENCE, Raw, Serve

VIRTIO = {"driver": "virtio-net-pci", "id": "n0"}


async def test_silent_after_connect(serve: Serve) -> None:
    async with serve("default,fault=silent-after-connect") as served:
        client = await served.connect()
        client.send("qmp_capabilities")
        assert await client.silent()


async def test_silent_after_negotiation(serve: Serve) -> None:
    async with serve("default,fault=silent-after-negotiation") as served:
        client = await served.client()
        client.send("stop")
        assert await client.silent()
        assert not client.reader.at_eof()
        assert served.said.received("stop")


async def test_late_start(serve: Serve) -> None:
    async with serve({"fault": [{"name": "late-start", "seconds": 0.15}]}) as served:
        begun = time.monotonic()
        client = await served.connect()
        client.send("qmp_capabilities")
        assert "QMP" in await client.receive()
        assert time.monotonic() - begun >= 0.14
        assert await client.reply() == {"return": {}}
        assert (await client.execute("query-status"))["status"] == "running"


async def test_late_reply_lets_events_pass_and_keeps_replies_in_order(serve: Serve) -> None:
    late = {"name": "late-reply:query-status", "seconds": 0.15, "times": 1}
    async with serve({"fault": [late]}) as served:
        client = await served.client()
        begun = time.monotonic()
        client.send("query-status", id=1)
        client.send("stop", id=2)
        assert (await client.event())[0] == "STOP"
        assert (await client.receive())["id"] == 1
        assert time.monotonic() - begun >= 0.14
        assert (await client.receive())["id"] == 2
        assert (await client.execute("query-status"))["status"] == "paused"


@pytest.mark.parametrize("fault", ["late-reply:quit", "event-before-reply", "late-reply"])
async def test_the_reply_to_quit_comes(serve: Serve, fault: str) -> None:
    async with serve({"fault": [{"name": fault, "seconds": 0.05}]}) as served:
        client = await served.client()
        client.send("quit")
        await served.stand_in.finished.wait()
        closing = asyncio.create_task(served.stand_in.close())
        assert (await client.event())[0] == "SHUTDOWN"
        assert await client.receive() == {"return": {}}
        assert await client.line() == b""
        await closing


async def test_the_events_of_a_command_come_before_its_reply(serve: Serve) -> None:
    async with serve("default,fault=event-before-reply") as served:
        client = await served.client()
        client.send("device_add", {"driver": "virtio-net-pci", "id": "n"})
        assert (await client.event())[0] == "RTC_CHANGE"  # it causes none
        assert await client.receive() == {"return": {}}
        client.send("device_del", {"id": "n"})
        path = "/machine/peripheral/n"
        assert (await client.event())[1] == {"path": f"{path}/virtio-backend"}
        assert (await client.event())[1] == {"device": "n", "path": path}
        assert await client.receive() == {"return": {}}
        client.send("stop")
        assert (await client.event())[0] == "STOP"
        assert await client.receive() == {"return": {}}
        client.send("query-name")
        assert (await client.event())[0] == "RTC_CHANGE"
        assert await client.receive() == {"return": {}}


async def test_stale_id(serve: Serve) -> None:
    async with serve("default,fault=stale-id:query-name") as served:
        client = await served.client()
        client.send("query-status", id="first")
        assert (await client.receive())["id"] == "first"
        client.send("query-name", id="second")
        assert (await client.receive())["id"] == "first"
        client.send("query-status", id="third")
        assert (await client.receive())["id"] == "third"


async def test_stale_ids_of_consecutive_replies(serve: Serve) -> None:
    async with serve("default,fault=stale-id") as served:
        client = await served.client()
        for name in "abc":
            client.send("query-name", id=name)
        assert [(await client.receive())["id"] for _ in "abc"] == ["stale", "a", "b"]


@pytest.mark.parametrize("other", ["not-json", "glued-replies"])
async def test_a_stale_id_of_a_reply_that_is_spoilt(serve: Serve, other: str) -> None:
    async with serve(f"default,fault={other},fault=stale-id,fault=stale-id:stop") as served:
        client = await served.client()
        client.send("query-name", id=1)
        assert await client.line() != b""
        await client.close()
        client = await served.connect()
        assert "QMP" in await client.receive()


async def test_event_before_greeting(serve: Serve) -> None:
    async with serve("default,fault=event-before-greeting") as served:
        client = await served.connect()
        assert (await client.event())[0] == "RTC_CHANGE"
        await client.negotiate()


async def test_event_before_its_reply(serve: Serve) -> None:
    async with serve("default,fault=event-before-reply:device_del") as served:
        client = await served.client()
        await client.execute("device_add", {"driver": "e1000", "id": "n0"})
        client.send("device_del", {"id": "n0"})
        client.send("query-status")
        assert (await client.event()) == (
            "DEVICE_DELETED",
            {"device": "n0", "path": "/machine/peripheral/n0"},
        )
        assert await client.receive() == {"return": {}}
        assert "status" in (await client.receive())["return"]
        assert await client.silent(2 * faults.events.EVENT_PATIENCE)  # no other event


async def test_event_before_the_reply_to_a_command_without_events(serve: Serve) -> None:
    async with serve("default,fault=event-before-reply") as served:
        client = await served.client()
        client.send("query-name")
        assert (await client.event())[0] == "RTC_CHANGE"
        assert await client.receive() == {"return": {}}


@pytest.mark.parametrize(("fault", "copies"), [("", 1), (",fault=duplicated-event", 2)])
async def test_duplicated_event(serve: Serve, fault: str, copies: int) -> None:
    async with serve(f"default{fault}") as served:
        client = await served.client()
        await client.execute("device_add", VIRTIO)
        client.send("device_del", {"id": "n0"})
        assert await client.receive() == {"return": {}}
        for path in ("/machine/peripheral/n0/virtio-backend", "/machine/peripheral/n0"):
            for _ in range(copies):
                name, data = await client.event()
                assert (name, data["path"]) == ("DEVICE_DELETED", path)
        assert await client.silent(0.05)


async def test_duplicated_event_of_another_name(serve: Serve) -> None:
    async with serve("default,fault=duplicated-event:STOP") as served:
        client = await served.client()
        client.send("stop")
        assert [(await client.event())[0] for _ in range(2)] == ["STOP", "STOP"]
        assert await client.receive() == {"return": {}}


async def test_event_flood(serve: Serve) -> None:
    async with serve("default,fault=event-flood") as served:
        client = await served.client()
        client.send("query-status")
        for _ in range(faults.FLOOD):
            assert b'"RTC_CHANGE"' in await client.line()
        assert (await client.receive())["return"]["status"] == "running"
        assert "status" in await client.execute("query-status")  # once is enough


async def test_split_reply(serve: Serve) -> None:
    async with serve("default,fault=split-reply") as served:
        client = await served.connect()
        pieces: list[bytes] = []
        while not pieces or not pieces[-1].endswith(b"\n"):
            pieces.append(await client.reader.read(1 << 16))
        assert "QMP" in json.loads(b"".join(pieces))
        # A reader that is late may get some bytes together.
        assert len(pieces) > len(b"".join(pieces)) / 2
        client.send("qmp_capabilities")
        client.send("query-name")
        assert [await client.receive() for _ in range(2)] == [{"return": {}}] * 2


async def test_glued_replies(serve: Serve) -> None:
    async with serve("default,fault=glued-replies") as served:
        client = await served.client()
        client.send("query-name")
        line = await client.line()
        assert re.fullmatch(rb'\{.*"RTC_CHANGE".*\}\{"return": \{\}\}\r\n', line), line


async def test_huge_reply(serve: Serve) -> None:
    async with serve("default,fault=huge-reply:query-status") as served:
        client = await served.client()
        assert await client.execute("query-name") == {}
        client.send("query-status")
        line = await client.line()
        assert len(line) > 10 * 1024 * 1024
        assert json.loads(line)["return"]["status"] == "running"


async def test_not_json(serve: Serve) -> None:
    async with serve("default,fault=not-json") as served:
        client = await served.client()
        client.send("query-name")
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(await client.line())
        assert await client.receive() == {"return": {}}


async def test_disconnect_before_greeting(serve: Serve) -> None:
    async with serve({"fault": [{"name": "disconnect-before-greeting", "times": 1}]}) as served:
        assert await (await served.connect()).line() == b""
        assert await (await served.client()).execute("query-name") == {}


async def test_disconnect_before_reply(serve: Serve) -> None:
    async with serve("default,fault=disconnect-before-reply:stop") as served:
        client = await served.client()
        for command in ("query-name", "stop", "query-name"):
            client.send(command)
        assert await client.reply() == {"return": {}}
        while b"event" in (line := await client.line()):
            pass
        assert line == b""
        assert (await (await served.client()).execute("query-status"))["status"] == "paused"


async def test_quit_without_exit(serve: Serve) -> None:
    async with serve("default,fault=quit-without-exit", max_clients=2) as served:
        client, other = await served.client(), await served.client()
        client.send("quit")
        assert await client.reply() == {"return": {}}
        late = await served.connect()
        assert (await other.event())[0] == "SHUTDOWN"
        for one in (client, other, late):
            one.send("query-name")
        served.stand_in.emit("STOP")
        assert all([await one.silent(0.05) for one in (client, other, late)])
        assert not served.stand_in.finished.is_set()


async def test_full_backlog(serve: Serve, tmp_path: Path) -> None:
    async with serve({"fault": [{"name": "full-backlog", "seconds": 0.1}]}) as served:
        with socket.socket(socket.AF_UNIX) as refused:
            refused.setblocking(False)
            with pytest.raises(BlockingIOError):
                refused.connect(str(served.path))
        with socket.socket(socket.AF_UNIX) as waits:
            await asyncio.to_thread(waits.connect, str(served.path))
            waits.settimeout(PATIENCE)
            assert b'"QMP"' in await asyncio.to_thread(waits.recv, 1000)
            assert [one.client for one in served.said.messages] == [1]


async def test_disconnect_mid_reply(serve: Serve) -> None:
    once = {"name": "disconnect-mid-reply", "times": 1}
    async with serve({"fault": [once]}) as served:
        client = await served.client()
        client.send("query-name")
        assert await client.line() == b'{"return'  # half of it, no end of line
        assert await client.line() == b""
        again = await served.client()
        assert await again.execute("query-name") == {}


async def test_second_client_refused(serve: Serve) -> None:
    async with serve("default,fault=second-client-refused", max_clients=2) as served:
        first = await served.client()
        second = await served.connect()
        assert await second.line() == b""
        assert await first.execute("query-name") == {}
        await first.close()
        while True:  # until the server has noticed the disconnect
            third = await served.connect()
            if await third.line():
                break
        assert await third.execute("qmp_capabilities") == {}


async def test_reset_before_reply(serve: Serve) -> None:
    async with serve("default,fault=reset-before-reply:migrate") as served:
        client = await served.client()
        client.send("migrate", {"uri": "tcp:a:1"})
        assert await client.event() == ("RESET", {"guest": True, "reason": "guest-reset"})
        assert await client.receive() == {"return": {}}


@pytest.mark.parametrize(("fault", "rate"), [("", 10), (",fault=limit-ignored", 1000)])
async def test_limit_ignored(serve: Serve, fault: str, rate: int) -> None:
    async with serve(f"default{fault}") as served:
        client = await served.client()
        assert await client.execute("set-vcpu-dirty-limit", {"dirty-rate": 10}) == {}
        assert await client.execute("query-vcpu-dirty-limit") == [
            {"cpu-index": 0, "limit-rate": 10, "current-rate": rate}
        ]


@pytest.mark.parametrize("name", ["stopped-process", "killed-process"])
async def test_a_process_is_refused_that_is_not_its_own(name: str) -> None:
    scenario = Scenario.from_option(f"default,fault={name}")
    with pytest.raises(ScenarioError, match="needs a process of its own"):
        StandIn(scenario)


async def test_faults_of_a_pretty_monitor(tmp_path: Path) -> None:
    stand_in = StandIn(
        Scenario.from_option("default,fault=not-json,fault=disconnect-mid-reply:stop")
    )
    path = tmp_path / "pretty.sock"
    await stand_in.serve_unix(path, pretty=True)
    client = await Raw.connect(path)
    for command in ("qmp_capabilities", "query-name", "stop"):
        client.send(command)
    async with asyncio.timeout(10):
        said = (await client.reader.read()).decode()
    greeting, *rest = re.split(r"(?<=\n)(?=[{w])", said)
    assert "QMP" in json.loads(greeting)
    assert json.loads(rest[0]) == {"return": {}}
    assert rest[1].startswith("warning")
    assert json.loads(rest[2]) == {"return": {}}
    assert json.loads(rest[3])["event"] == "STOP"
    cut = "".join(rest[4:])
    assert cut.startswith("warning")
    assert not cut.endswith("}\r\n")
    await client.close()
    await stand_in.close()


async def test_faults_together(serve: Serve) -> None:
    async with serve("default,fault=not-json,fault=split-reply") as served:
        client = await served.client()
        client.send("query-name")
        assert not (await client.line()).startswith(b"{")
        assert await client.receive() == {"return": {}}


@pytest.mark.slow
async def test_qemus_own_client_tolerates_faults(serve: Serve, tmp_path: Path) -> None:
    async with serve("default,fault=split-reply,fault=duplicated-event") as served:
        client = QMPClient()
        await client.connect(str(served.path))
        with client.listener("DEVICE_DELETED") as events:
            await client.execute("device_add", VIRTIO)
            await client.execute("device_del", {"id": "n0"})
            # Two of the device and its backend, each sent twice.
            data: list[Any] = [(await events.get())["data"] for _ in range(4)]
            paths = [one["path"] for one in data]
        assert paths == sorted(paths, reverse=True)
        assert len(set(paths)) == 2
        await client.disconnect()


async def test_agent_late_start(serve: Serve) -> None:
    late = {"name": "late-start", "seconds": 0.1}
    async with serve({"schema": "guest-agent", "fault": [late]}) as served:
        begun = time.monotonic()
        client = await served.connect()
        client.send("guest-sync", {"id": 1})
        assert await client.receive() == {"return": 1}
        assert time.monotonic() - begun >= 0.09


def test_every_fault_has_its_test() -> None:
    text = Path(__file__).read_text() + Path(__file__).with_name("test_program.py").read_text()
    assert [name for name in faults.FAULTS if name not in text] == []


@pytest.mark.parametrize("fault", faults.FAULTS.values())
def test_the_docstring_of_a_fault_fits_a_row_of_a_table(fault: type[faults.Fault]) -> None:
    assert re.fullmatch(r"[A-Z0-9][^|\n]*\.", fault.__doc__ or "")
