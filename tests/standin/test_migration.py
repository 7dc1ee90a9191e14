"""The stand-in's migration answers as QEMU 11.1 did, and goes through the same statuses."""

import os
from pathlib import Path
from typing import Any

import pytest

from qmpserver.standin import Scenario
from qmpserver.transcript.format import Transcript, read_all
from tests.qemu.pairs import RECORDED
from tests.qemu.transcript import exchanges
from tests.standin.conftest import Raw, Serve, Served

TRANSCRIPTS = Path(__file__).parents[1] / "qemu" / "transcripts" / "qemu-11.1"
EVENTS = [{"capability": "events", "state": True}]
PAUSE = [*EVENTS, {"capability": "pause-before-switchover", "state": True}]

# A stand-in always has a dirty ring.
ANSWERED = {
    f"{path.stem}:{transcript.line}": transcript
    for path in sorted(TRANSCRIPTS.glob("migration-*.txt"))
    for transcript in read_all(path.read_text())
    if not (path.stem == "migration-capabilities" and "ring" not in (transcript.options or ""))
}


@pytest.mark.parametrize("transcript", ANSWERED.values(), ids=ANSWERED)
async def test_answers_are_qemus(serve: Serve, transcript: Transcript) -> None:
    status = "inmigrate" if "-incoming" in (transcript.options or "") else "prelaunch"
    async with serve({"schema": "qmpserver", "machine": {"status": status}}) as served:
        client = await served.connect()
        await client.receive()
        for said, heard in exchanges(transcript):
            client.writer.write(said[-1].data + b"\n")
            assert await client.reply() == heard[-1].value, said[-1].text


async def course(client: Raw, *, until: str) -> list[str]:
    """Return the events up to a status, as recorded courses have them."""
    events: list[str] = []
    while not events or events[-1] != f'MIGRATION {{"status": "{until}"}}':
        message = await client.receive()
        if "event" in message:
            data = str(message.get("data", "")).replace("'", '"')
            events.append(f"{message['event']} {data}".strip())
    return events


def without_pass(events: list[str]) -> list[str]:
    """Return events without the second pass, of which a recorded course says nothing."""
    events.remove('MIGRATION_PASS {"pass": 2}')
    return events


def recorded(name: str, side: str) -> list[str]:
    """Return the events of one side of a recorded course."""
    text = (RECORDED / f"{name}.txt").read_text()
    part = text.split(f"[{side}]\n")[1].split("\n\n")[1]
    return part.splitlines()


async def test_source(serve: Serve) -> None:
    async with serve(
        {"schema": "qmpserver", "machine": {"migration-time": 0.01, "migration-peer": False}}
    ) as served:
        client = await served.client()
        await client.execute("migrate-set-capabilities", {"capabilities": EVENTS})
        client.send("migrate", {"uri": "unix:/x"})
        events = await course(client, until="completed")
        assert without_pass(events) == recorded("moved", "source")
        again = await client.execute("migrate", {"uri": "unix:/x"})
        assert again["desc"] == "Can't migrate the vm that was paused due to previous migration"


async def test_destination(serve: Serve) -> None:
    scenario = {
        "machine": {"migration-time": 0.01, "migration-peer": False, "status": "inmigrate"},
        "schema": "qmpserver",
    }
    async with serve(scenario) as served:
        client = await served.client()
        await client.execute("migrate-set-capabilities", {"capabilities": EVENTS})
        client.send("migrate-incoming", {"uri": "unix:/x"})
        assert await course(client, until="completed") == recorded("moved", "destination")
        again = await client.execute("migrate-incoming", {"uri": "unix:/x"})
        assert again["desc"] == "The incoming migration has already been started"


async def test_the_destination_shows_where_it_listens(serve: Serve) -> None:
    scenario = {
        "machine": {"migration-time": 60, "migration-peer": False, "status": "inmigrate"},
        "schema": "qmpserver",
    }
    async with serve(scenario) as served:
        client = await served.client()
        await client.execute("migrate-incoming", {"uri": "tcp:localhost:7"})
        assert await client.execute("query-migrate") == {
            "status": "setup",
            "socket-address": [{"type": "inet", "host": "localhost", "port": "7"}],
        }
        refused = await client.execute("migrate", {"uri": "unix:/x"})
        assert refused["desc"] == "Guest is waiting for an incoming migration"
        await client.execute("migrate_cancel")
        assert (await client.execute("query-migrate"))["status"] == "setup"


async def test_a_pause_that_is_cancelled(serve: Serve) -> None:
    async with serve(
        {"schema": "qmpserver", "machine": {"migration-time": 0.01, "migration-peer": False}}
    ) as served:
        client = await served.client()
        await client.execute("migrate-set-capabilities", {"capabilities": PAUSE})
        client.send("migrate", {"uri": "unix:/x"})
        events = await course(client, until="pre-switchover")
        client.send("migrate_cancel")
        events += await course(client, until="cancelled")
        assert without_pass(events) == recorded("cancelled_when_paused", "source")
        assert await client.execute("query-migrate") == {"status": "cancelled"}


async def test_a_guest_that_was_stopped_stays_stopped(serve: Serve) -> None:
    async with serve(
        {"machine": {"migration-time": 0.01, "migration-peer": False, "status": "paused"}}
    ) as served:
        client = await served.client()
        await client.execute("migrate-set-capabilities", {"capabilities": PAUSE})
        client.send("migrate", {"uri": "unix:/x"})
        await course(client, until="pre-switchover")
        client.send("migrate_cancel")
        events = await course(client, until="cancelled")
        assert not any("RESUME" in event for event in events)
        assert (await client.execute("query-status"))["status"] == "paused"


async def test_it_refuses_changes_under_way(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 60, "migration-peer": False}}) as served:
        client = await served.client()
        await client.execute("migrate", {"uri": "unix:/x"})
        changes: dict[str, Any] = {"capabilities": EVENTS}
        refused = await client.execute("migrate-set-capabilities", changes)
        assert refused["desc"] == "There's a migration process in progress"
        assert await client.execute("migrate-set-parameters", {"downtime-limit": 7}) == {}
        assert (await client.execute("query-migrate"))["expected-downtime"] == 7


async def test_the_names_of_another_release(serve: Serve) -> None:
    async with serve({"schema": "qemu-7.2"}) as served:
        client = await served.client()
        shown = await client.execute("query-migrate-capabilities")
        names = [one["capability"] for one in shown]
        assert "zero-blocks" in names
        assert "mapped-ram" not in names
        on = [{"capability": "zero-blocks", "state": True}]
        assert await client.execute("migrate-set-capabilities", {"capabilities": on}) == {}
        assert on[0] in await client.execute("query-migrate-capabilities")
        assert await client.execute("migrate-set-parameters", {"compress-level": 3}) == {}
        parameters = await client.execute("query-migrate-parameters")
        assert parameters["compress-level"] == 3
        assert "vcpu-dirty-limit" not in parameters


@pytest.mark.parametrize("options", [[], [("S", "")]], ids=["", "-S"])
async def test_from_one_stand_in_to_another(
    serve: Serve, tmp_path: Path, options: list[tuple[str, str]]
) -> None:
    machine = {"status": "prelaunch"} if options else {}
    other = Served(Scenario.read({"schema": "qmpserver", "machine": machine}), tmp_path / "to.sock")
    async with serve({"schema": "qmpserver", "machine": {"migration-time": 0.01}}) as served:
        try:
            incoming = ("incoming", f"unix:{tmp_path}/stream.sock")
            await other.stand_in.launch([*options, incoming])
            await other.stand_in.serve_unix(other.path)
            source, destination = await served.client(), await other.client()
            waiting = await destination.execute("query-migrate")
            assert waiting == {
                "status": "setup",
                "socket-address": [{"type": "unix", "path": f"{tmp_path}/stream.sock"}],
            }
            for client in (source, destination):
                await client.execute("migrate-set-capabilities", {"capabilities": EVENTS})
            source.send("migrate", {"uri": incoming[1]})
            sent = await course(source, until="completed")
            came = await course(destination, until="completed")
            assert without_pass(sent) == recorded("moved", "source")
            arrived = await destination.execute("query-status")
            assert arrived["status"] == ("paused" if options else "running")
            if not options:
                assert came == [*recorded("moved", "destination")][1:]
        finally:
            await other.close()


async def test_a_migration_through_a_descriptor(serve: Serve) -> None:
    async with serve({"machine": {"migration-time": 0.01}}) as served:
        client = await served.client()
        refused = await client.execute("migrate", {"uri": "fd:nobody"})
        assert refused["desc"] == "File descriptor named 'nobody' has not been found"
        source, sink = os.pipe()
        try:
            served.stand_in.fds.keep("compat_monitor0", "x", sink)
            await client.execute("migrate-set-capabilities", {"capabilities": EVENTS})
            client.send("migrate", {"uri": "fd:x"})
            await course(client, until="completed")
            os.set_blocking(source, False)
            assert b'"run_state":"running"' in os.read(source, 4096)
            assert os.read(source, 1) == b""  # closed, as a reader of the whole waits for
        finally:
            os.close(source)


async def test_a_migration_to_nobody_fails(serve: Serve, tmp_path: Path) -> None:
    async with serve({"schema": "qmpserver"}) as served:
        client = await served.client()
        await client.execute("migrate-set-capabilities", {"capabilities": EVENTS})
        client.send("migrate", {"uri": f"unix:{tmp_path}/x"})
        assert "STOP" not in await course(client, until="failed")
        assert await client.execute("query-migrate") == {
            "status": "failed",
            "error-desc": f"Failed to connect to '{tmp_path}/x': No such file or directory",
        }
