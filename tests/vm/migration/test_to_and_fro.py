"""A guest at full speed moves to and fro while it is disturbed; its memory is compared each time.

By default few rounds; `ROUNDS=1000 pytest tests/vm/migration/test_to_and_fro.py` makes a thousand.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
from typing import Any

import pytest

from qmpserver.migration.address import parse_uri
from tests.vm.migration.conftest import NOTHING_PASSED, MakeSide, Side, assert_same_ram

ROUNDS = int(os.environ.get("ROUNDS", "6"))
MOVES = 3  # of one guest
SYS_TGKILL = 234


async def disturb(source: Side, rng: random.Random) -> None:
    """Set and cancel limits, stop and resume, signal the threads, until cancelled."""
    vcpus = source.machine.accel.engine.vcpus
    threads = source.machine.accel.engine.thread_ids()
    while source.machine.state != "postmigrate":
        match rng.randrange(5):
            case 0:
                source.machine.dirty_limit.set(rng.choice([5, 50, 500]), rng.randrange(vcpus))
            case 1:
                source.machine.dirty_limit.cancel()
            case 2:
                await source.machine.stop()
            case 3:
                with contextlib.suppress(RuntimeError):  # the switchover has begun
                    await source.machine.cont()
            case 4:
                for thread in threads:
                    ctypes.CDLL(None).syscall(SYS_TGKILL, os.getpid(), thread, signal.SIGURG)
        await asyncio.sleep(rng.random() * 0.005)


async def move(source: Side, destination: Side, uri: str, rng: random.Random) -> None:
    """Migrate while the source is disturbed; RAM must be the same when neither side runs."""
    channels = rng.choice([0, 0, 1, 2, 3])
    for one in (source, destination):
        if channels:
            one.migration.set_capabilities({"multifd": True})
            one.migration.set_parameters({"multifd-channels": channels})
    await destination.migration.incoming(parse_uri(uri), NOTHING_PASSED)
    disturbing = asyncio.ensure_future(disturb(source, rng))
    source.migration.start(parse_uri(uri), NOTHING_PASSED)
    try:
        assert (await source.ended(), await destination.ended()) == ("completed", "completed"), (
            source.error,
            destination.error,
        )
    finally:
        disturbing.cancel()
        await asyncio.wait([disturbing])
    assert_same_ram(source, destination)
    destination.assert_whole()


@pytest.mark.slow
async def test_to_and_fro(side: MakeSide, uri: str) -> None:
    for number in range(-(-ROUNDS // MOVES)):
        rng = random.Random(number)
        options: dict[str, Any] = {
            "vcpus": rng.choice([1, 2, 4, 8]),
            "ring": rng.choice([1024, 4096, 65536]),
            "ram": rng.choice([16, 32, 64]) << 20,
            "pattern": rng.choice(["sequential", "random", "hotspot"]),
        }
        here = side(**options)
        for _ in range(MOVES):
            await here.advance(500)
            there = side(**options, incoming=True, stopped=True)
            await move(here, there, uri, rng)
            await here.close()
            here = there
            await here.machine.cont()
        await here.advance(100)
        await here.machine.stop()
        here.assert_whole()
        await here.close()
