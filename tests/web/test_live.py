"""`/live`: what comes, how often, to whom, and what a browser that stalls costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from qmpserver.web.broadcast import MAX_LISTENERS, Broadcast
from qmpserver.web.live import INTERVAL, trimmed
from tests.web.conftest import VCPUS, Web

PATIENCE = 10


@asynccontextmanager
async def watching(
    site: Web, http: aiohttp.ClientSession
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with http.ws_connect(site.url + "/live", headers=site.bearer) as ws:
        yield ws


async def frame(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    return dict(await ws.receive_json(timeout=PATIENCE))


@pytest.mark.slow
async def test_first_the_machine_then_a_frame_each_interval(
    site: Web, http: aiohttp.ClientSession
) -> None:
    async with watching(site, http) as ws:
        machine = await frame(ws)
        assert machine["accel"] == "soft"
        assert machine["vcpus"] == VCPUS
        assert machine["ring-size"] == 4096
        start = time.monotonic()
        frames = [await frame(ws) for _ in range(6)]
        assert 5 * INTERVAL * 0.9 < time.monotonic() - start < 5 * INTERVAL * 10
    times = [one["time"] for one in frames]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < 5
    assert {len(one[key]) for one in frames for key in ("limits", "waiting")} == {VCPUS}


@pytest.mark.slow
async def test_watching_does_not_track(site: Web, http: aiohttp.ClientSession) -> None:
    async with watching(site, http) as ws:
        await frame(ws)
        for _ in range(5):
            assert (await frame(ws))["rates"] is None
        assert not site.machine.accel.engine.tracking


@pytest.mark.slow
async def test_a_limit_is_seen_by_all_and_so_are_rates(
    site: Web, http: aiohttp.ClientSession
) -> None:
    async with watching(site, http) as one, watching(site, http) as other:
        await frame(one)
        await frame(other)
        site.machine.dirty_limit.set(20, 1)
        for ws in (one, other):
            async with asyncio.timeout(PATIENCE):
                while (seen := await frame(ws))["rates"] is None:
                    pass
            assert seen["limits"] == [0, 20]
            assert seen["status"] == "running"
        site.machine.dirty_limit.cancel()
        async with asyncio.timeout(PATIENCE):
            while (seen := await frame(one))["rates"] is not None:
                assert seen["limits"] == [0, 0]
        assert seen["reaper"]["kicks"] > 0


async def test_nothing_is_sampled_when_all_have_gone(
    site: Web, http: aiohttp.ClientSession
) -> None:
    def sampling() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if "Live._sample" in repr(task.get_coro())]

    for _ in range(2):
        async with watching(site, http) as ws:
            await frame(ws)
            await frame(ws)
            (task,) = sampling()
        await asyncio.wait([task], timeout=PATIENCE)
        assert not sampling()


async def test_so_many_and_no_more(site: Web, http: aiohttp.ClientSession) -> None:
    sockets = [
        await http.ws_connect(site.url + "/live", headers=site.bearer) for _ in range(MAX_LISTENERS)
    ]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(site.url + "/live", headers=site.bearer)
    assert refused.value.status == 503
    await sockets.pop().close()
    sockets.append(await http.ws_connect(site.url + "/live", headers=site.bearer))
    for ws in sockets:
        await ws.close()


async def test_it_needs_the_token_and_a_websocket(site: Web, http: aiohttp.ClientSession) -> None:
    async with http.get(site.url + "/live") as response:
        assert response.status == 401
    async with http.get(site.url + "/live", headers=site.bearer) as response:
        assert response.status == 426


@pytest.mark.slow
async def test_who_stalls_misses_frames_and_costs_others_nothing() -> None:
    """A browser that reads nothing for a while; what it has not got was dropped."""
    broadcast = Broadcast()
    joined = asyncio.Semaphore(0)
    transports: list[asyncio.Transport] = []

    async def listen(request: web.Request) -> web.WebSocketResponse:
        assert request.transport is not None
        transports.append(request.transport)
        return await broadcast.serve(request, b"-1", joined.release)

    app = web.Application()
    app.router.add_get("/", listen)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await joined.acquire()
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://{host}:{port}/") as ws:
            await joined.acquire()
            assert await ws.receive_str(timeout=PATIENCE) == "-1"
            frames, size = 2000, 10_000
            for number in range(frames):
                await broadcast.send(f"{number}".ljust(size).encode())
                assert transports[0].get_write_buffer_size() <= size + 16
                assert int(await ws.receive_str(timeout=PATIENCE)) == number
        got = await _until_quiet(reader)
        assert size < got < frames * size / 4  # the kernel's buffers on both sides
        # It reads again, so it gets the next frame.
        await broadcast.send(b"[]")
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(4) == b"\x81\x02[]"
        writer.close()
    finally:
        await broadcast.close()
        await runner.cleanup()


async def _until_quiet(reader: asyncio.StreamReader) -> int:
    got = 0
    while True:
        try:
            async with asyncio.timeout(0.5):
                got += len(await reader.read(65536))
        except TimeoutError:
            return got


def test_a_frame_s_histograms_end_with_a_wake() -> None:
    assert trimmed([0, 2, 0, 1, 0, 0]) == [0, 2, 0, 1]
    assert trimmed([0, 0]) == []
