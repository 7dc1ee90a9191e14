"""Whole migrations: the guest goes on at the destination, and nothing of it is lost."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from qmpserver.migration.address import parse_uri
from qmpserver.migration.extensions import TOTAL_TIME
from qmpserver.qmp import CommandError
from qmpserver.vm.accel.stream import Sender
from tests.conftest import PATIENCE, Until
from tests.vm.migration.conftest import NOTHING_PASSED, MakeSide, Side, assert_same_ram, migrate

SOURCE = ["setup", "active", "device", "completed"]
DESTINATION = ["setup", "active", "completed"]


def statuses(side: Side) -> list[str]:
    return [event for event in side.events if event.islower()]


@pytest.mark.slow
async def test_a_running_guest_goes_on(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    await source.advance(20_000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    left = source.progress()
    assert [now >= then for now, then in zip(destination.progress(), left, strict=True)] == [
        True,
        True,
    ]
    await destination.advance(20_000)
    await destination.machine.stop()
    destination.assert_whole()
    assert (source.machine.state, destination.machine.state) == ("postmigrate", "paused")
    assert statuses(source) == SOURCE
    assert statuses(destination) == DESTINATION
    assert source.events.index("STOP") < source.events.index("device")
    assert destination.events.index("RESUME") < destination.events.index("completed")


async def test_all_of_ram_is_the_same(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True, stopped=True)
    await source.advance(50_000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert destination.machine.state == "paused"
    assert_same_ram(source, destination)
    destination.assert_whole()
    await destination.machine.cont()
    await destination.advance(1000)


async def test_a_query_while_the_sender_is_closed(
    side: MakeSide, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, queried = threading.Event(), threading.Event()
    close = Sender.close

    def slowly(sender: Sender) -> None:
        close(sender)
        closed.set()
        assert queried.wait(PATIENCE)

    monkeypatch.setattr(Sender, "close", slowly)
    source, destination = side(), side(incoming=True)
    migrating = asyncio.ensure_future(migrate(source, destination, uri))
    assert await asyncio.to_thread(closed.wait, PATIENCE)
    try:
        assert source.migration.info()["ram"]["transferred"] > 0
    finally:
        queried.set()
        assert await migrating == ("completed", "completed")


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
async def test_multifd(side: MakeSide, uri: str, channels: int) -> None:
    source, destination = side(), side(incoming=True, stopped=True)
    for one in (source, destination):
        one.migration.set_capabilities({"multifd": True})
        one.migration.set_parameters({"multifd-channels": channels})
    await source.advance(20_000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert_same_ram(source, destination)


async def test_a_paused_guest_stays_paused(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    await source.advance(1000)
    await source.machine.stop()
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert destination.machine.state == "paused"
    assert "RESUME" not in destination.events
    assert source.progress() == destination.progress()


@pytest.mark.slow
async def test_there_and_back(side: MakeSide, uri: str) -> None:
    """The pages, registers and limits survive each move; a limit goes on at the other side."""
    here = side()
    here.machine.dirty_limit.set(50, 1)
    for _ in range(4):
        there = side(incoming=True)
        await here.advance(2000)
        assert await migrate(here, there, uri) == ("completed", "completed")
        assert [limit.limit_rate for limit in there.machine.dirty_limit.query()] == [50]
        await here.close()
        here = there
    await here.advance(2000)
    await here.machine.stop()
    here.assert_whole()


@pytest.mark.slow
async def test_without_a_ring(side: MakeSide, uri: str) -> None:
    source, destination = side(ring=0), side(ring=0, incoming=True, stopped=True)
    await source.advance(20_000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert_same_ram(source, destination)


@pytest.mark.parametrize("ring", [0, 4096])
async def test_pages_dirtied_in_the_first_round_do_not_wait_for_the_pause(
    side: MakeSide, uri: str, ring: int
) -> None:
    """Without rings only a harvest tells how many there are."""
    source = side(ring=ring, pages="3000")
    destination = side(ring=ring, incoming=True, stopped=True, pages="3000")
    await source.advance(6000)
    source.migration.set_parameters({"max-bandwidth": 100 << 20, "downtime-limit": 50})
    migrating = asyncio.ensure_future(migrate(source, destination, uri))
    await source.wait(lambda: source.migration.status == "active")
    await source.advance(3000)
    await source.machine.stop()
    assert await migrating == ("completed", "completed")
    assert source.migration.info()["ram"]["downtime-bytes"] < 6 << 20
    assert_same_ram(source, destination)


@pytest.mark.parametrize("ring", [0, 4096])
async def test_a_paused_guest_on_a_link_of_any_speed(side: MakeSide, uri: str, ring: int) -> None:
    """The first round ends before the bandwidth is known."""
    source = side(ring=ring, stopped=True)
    destination = side(ring=ring, incoming=True)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert source.migration.info()["ram"]["dirty-sync-count"] <= 3


async def test_a_measurement_takes_no_page_from_a_migration(side: MakeSide, uri: str) -> None:
    """Without rings both read the same log, which forgets a page that was read."""
    source, destination = side(ring=0), side(ring=0, incoming=True, stopped=True)
    await source.advance(1000)
    source.migration.set_parameters({"max-bandwidth": 1 << 20})
    migrating = asyncio.ensure_future(migrate(source, destination, uri))
    await source.wait(lambda: source.migration.status == "active")
    await source.advance(1000)
    await source.machine.stop()
    await source.machine.dirty_rate.start(50, "dirty-bitmap", None)
    assert source.machine.dirty_rate.last.status == "measured"
    source.migration.set_parameters({"max-bandwidth": 0})
    assert await migrating == ("completed", "completed")
    assert_same_ram(source, destination)


@pytest.mark.slow
async def test_a_file_saves_and_restores(side: MakeSide, tmp_path: Path) -> None:
    address = parse_uri(f"file:{tmp_path}/saved")
    source, destination = side(), side(incoming=True)
    await source.advance(20_000)
    source.migration.start(address, NOTHING_PASSED)
    assert await source.ended() == "completed"
    await destination.migration.incoming(address, NOTHING_PASSED)
    assert await destination.ended() == "completed"
    await destination.advance(1000)
    await destination.machine.stop()
    destination.assert_whole()


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 4096])
async def test_mapped_ram(side: MakeSide, tmp_path: Path, offset: int) -> None:
    """RAM has its place in the file, which stays sparse."""
    options = {"ram": 128 << 20, "size": "1M"}
    (tmp_path / "saved").write_bytes(b"\xff" * (4 << 20))
    address = parse_uri(f"file:{tmp_path}/saved,offset={offset}")
    source, destination = side(**options), side(**options, incoming=True, stopped=True)
    for one in (source, destination):
        one.migration.set_capabilities({"mapped-ram": True})
    await source.advance(1000)
    source.migration.start(address, NOTHING_PASSED)
    assert await source.ended() == "completed"
    saved = os.stat(tmp_path / "saved")
    assert saved.st_size > 128 << 20
    assert saved.st_blocks * 512 < 32 << 20
    assert (tmp_path / "saved").read_bytes()[:offset] == b"\xff" * offset
    await destination.migration.incoming(address, NOTHING_PASSED)
    assert await destination.ended() == "completed"
    assert_same_ram(source, destination)
    await destination.machine.cont()
    await destination.advance(1000)


@pytest.mark.slow
async def test_a_command_saves_and_restores(side: MakeSide, tmp_path: Path) -> None:
    source, destination = side(rate="2"), side(incoming=True)
    await source.advance(2000)
    source.migration.start(parse_uri(f"exec:gzip -1 > {tmp_path}/saved.gz"), NOTHING_PASSED)
    assert await source.ended() == "completed"
    await destination.migration.incoming(
        parse_uri(f"exec:gunzip < {tmp_path}/saved.gz"), NOTHING_PASSED
    )
    assert await destination.ended() == "completed"
    await destination.advance(1000)


async def test_pause_before_switchover(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    source.migration.set_capabilities({"pause-before-switchover": True})
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await source.wait(lambda: source.migration.status == "pre-switchover")
    assert source.machine.state == "finish-migrate"
    with pytest.raises(RuntimeError, match="Migration is not finalized yet"):
        await source.machine.cont()
    source.migration.continue_("pre-switchover")
    assert await source.ended() == "completed"
    assert statuses(source) == ["setup", "active", "pre-switchover", "device", "completed"]


async def test_zero_pages_stay_sparse(side: MakeSide, uri: str) -> None:
    """Pages without data are neither sent nor allocated."""
    options = {"ram": 1 << 30, "size": "1M", "vcpus": 1}
    source, destination = side(**options), side(**options, incoming=True)
    await source.advance(1000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert source.migration.info()["ram"]["transferred"] < 16 << 20
    assert os.fstat(destination.machine.ram.fd).st_blocks * 512 < 16 << 20


@pytest.mark.slow
async def test_dirty_limit_converges(side: MakeSide, uri: str, until: Until) -> None:
    """A guest that is faster than the link is limited, and its own limit is back at the end."""
    source, destination = side(), side(incoming=True)
    source.machine.dirty_limit.set(500, 1)
    source.migration.set_capabilities({"dirty-limit": True})
    source.migration.set_parameters({"max-bandwidth": 60 << 20, "vcpu-dirty-limit": 10})
    source.migration.set_parameters({"downtime-limit": 200})
    await source.advance(20_000)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await asyncio.to_thread(until, lambda: source.migration.limits_vcpus)
    assert source.machine.accel.engine.limits() == [10, 10]
    await asyncio.to_thread(
        until, lambda: source.migration.info()["dirty-limit-throttle-time-per-round"] > 0
    )
    assert source.migration.info()["dirty-limit-ring-full-time"] > 0
    assert (await source.ended(), await destination.ended()) == ("completed", "completed")
    assert source.machine.accel.engine.limits() == [0, 500]
    assert [limit.limit_rate for limit in destination.machine.dirty_limit.query()] == [500]
    assert source.migration.info()["downtime"] < 1000


@pytest.mark.slow
async def test_auto_converge(side: MakeSide, uri: str, until: Until) -> None:
    """A guest that is faster than the link is held for more and more of its time."""
    source, destination = side(), side(incoming=True)
    source.migration.set_capabilities({"auto-converge": True})
    source.migration.set_parameters(
        {"max-bandwidth": 60 << 20, "cpu-throttle-initial": 95, "cpu-throttle-increment": 4}
    )
    await source.advance(20_000)
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    await asyncio.to_thread(until, lambda: "cpu-throttle-percentage" in source.migration.info())
    assert source.migration.info()["cpu-throttle-percentage"] >= 95
    assert (await source.ended(), await destination.ended()) == ("completed", "completed")
    assert "cpu-throttle-percentage" not in source.migration.info()


@pytest.mark.slow
@pytest.mark.parametrize(("total_ms", "downtime_ms"), [(3000, 100), (2500, 30)])
async def test_a_promise_is_kept(side: MakeSide, uri: str, total_ms: int, downtime_ms: int) -> None:
    """A guest at full speed, over a link of 40 MB/s, in the promised time."""
    source, destination = side(vcpus=1), side(vcpus=1, incoming=True)
    source.migration.set_parameters(
        {"max-bandwidth": 40 << 20, "downtime-limit": downtime_ms, TOTAL_TIME: total_ms}
    )
    await source.advance(20_000)
    assert await migrate(source, destination, uri) == ("completed", "completed")
    info = source.migration.info()
    assert 0.8 * total_ms < info["total-time"] < 1.5 * total_ms
    assert info["downtime"] < downtime_ms + 200
    assert not source.machine.accel.engine.limit_in_service
    assert not destination.machine.accel.engine.limit_in_service


async def test_a_promise_takes_rings(side: MakeSide) -> None:
    source = side(ring=0)
    with pytest.raises(CommandError, match="total-time requires accelerator property 'dirty-ring-"):
        source.migration.set_parameters({TOTAL_TIME: 1000})
    source.migration.set_parameters({TOTAL_TIME: 0})


@pytest.mark.parametrize("capability", ["auto-converge", "dirty-limit"])
async def test_a_promise_does_not_share_the_vcpus(side: MakeSide, capability: str) -> None:
    migration = side().migration
    conflict = f"^{TOTAL_TIME} conflicts with {capability}$"
    migration.set_parameters({TOTAL_TIME: 1000})
    with pytest.raises(CommandError, match=conflict):
        migration.set_capabilities({capability: True})
    migration.set_parameters({TOTAL_TIME: 0})
    migration.set_capabilities({capability: True})
    with pytest.raises(CommandError, match=conflict):
        migration.set_parameters({TOTAL_TIME: 1000})
    assert migration.parameters[TOTAL_TIME] == 0


@pytest.mark.slow
async def test_a_promise_and_the_limit_of_a_client(side: MakeSide, uri: str) -> None:
    """The policy takes such a limit for the guest's own speed, and it is there afterwards."""
    source, destination = side(), side(incoming=True)
    await source.advance(20_000)
    source.machine.dirty_limit.set(30, 1)
    source.migration.set_parameters({"max-bandwidth": 40 << 20, TOTAL_TIME: 3000})
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert source.migration.info()["total-time"] < 4500
    for one in (source, destination):
        assert one.machine.accel.engine.limits() == [0, 30]


async def test_a_limit_that_a_client_sets_during_a_migration(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    source.machine.dirty_limit.set(20, 0)
    source.migration.set_parameters({"max-bandwidth": 1 << 20})
    migrating = asyncio.ensure_future(migrate(source, destination, uri))
    await source.wait(lambda: source.migration.status == "active")
    source.machine.dirty_limit.cancel(0)
    source.machine.dirty_limit.set(30, 1)
    source.migration.set_parameters({"max-bandwidth": 0})
    assert await migrating == ("completed", "completed")
    for one in (source, destination):
        assert one.machine.accel.engine.limits() == [0, 30]


@pytest.mark.slow
async def test_a_promise_that_cannot_be_kept_is_told(side: MakeSide, uri: str) -> None:
    source, destination = side(), side(incoming=True)
    source.migration.set_parameters({"max-bandwidth": 30 << 20, TOTAL_TIME: 1000})
    await source.advance(20_000)
    forecast = await source.migration.forecast()
    assert not forecast.possible
    assert forecast.shortest_total > 1.0
    assert await migrate(source, destination, uri) == ("completed", "completed")
    assert source.events.count("__org.qmpserver_MIGRATION_LATE") == 1
