"""QMP over a WebSocket, and who is refused."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from qmpserver.monitor import Registry, Server
from qmpserver.options import OptionError
from qmpserver.qapi import Schema
from qmpserver.web.app import make_app
from qmpserver.web.security import Guard
from qmpserver.web.serve import serve

SCHEMA = Schema.load(Path(__file__).parents[1] / "monitor" / "schema.json")
TOKEN = "a-token-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    registry = Registry(SCHEMA)
    registry.command("echo")(lambda **arguments: arguments)
    monitors = Server(registry, version={"qemu": {"major": 7, "minor": 2, "micro": 0}})
    registry.command("stop")(lambda: monitors.emit("STOP"))
    yield monitors
    await monitors.close(grace=0.1)


@pytest_asyncio.fixture
async def url(server: Server) -> AsyncIterator[str]:
    hosts: set[str] = set()
    runner = web.AppRunner(make_app(server, Guard(TOKEN, hosts)))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    hosts.add(f"127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def test_a_session_is_that_of_a_socket(url: str, server: Server) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(url + "/qmp", headers=BEARER) as ws:

        async def execute(text: str) -> Any:
            await ws.send_str(text)
            return json.loads(await ws.receive_str(timeout=10))

        assert "QMP" in json.loads(await ws.receive_str(timeout=10))
        early = await execute('{"execute": "echo"}')
        assert early["error"]["class"] == "CommandNotFound"
        assert await execute('{"execute": "qmp_capabilities"}') == {"return": {}}
        assert await execute('{"execute": "echo", "id": 1}') == {"return": {}, "id": 1}
        assert (await execute('{"execute": "stop"}'))["event"] == "STOP"
        assert json.loads(await ws.receive_str(timeout=10)) == {"return": {}}
        for number in range(100):
            await ws.send_json({"execute": "echo", "id": number})
        for number in range(100):  # one message a frame, in order
            assert json.loads(await ws.receive_str(timeout=10))["id"] == number


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Cookie": "qmpserver-token=wrong"}, 401),
        (BEARER | {"Host": "attacker.example"}, 421),
        (BEARER | {"Origin": "http://attacker.example"}, 403),
        (BEARER | {"Origin": "null"}, 403),
    ],
)
async def test_others_are_refused(
    url: str, server: Server, headers: dict[str, str], status: int
) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(url + "/qmp", headers=headers)
        assert refused.value.status == status
        async with http.get(url + "/qmp", headers=headers) as response:
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert server.clients == 0


async def test_the_page_s_own_origin_and_cookie_pass(url: str) -> None:
    headers = {"Origin": url, "Cookie": f"qmpserver-token={TOKEN}"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url + "/qmp", headers=headers) as ws,
    ):
        assert "QMP" in json.loads(await ws.receive_str(timeout=10))


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "nonsense", "127.0.0.1:x"]
)
async def test_only_loopback_is_listened_on(server: Server, address: str) -> None:
    with pytest.raises(OptionError):
        await serve(server, address)


async def test_a_token_is_made_at_start(server: Server) -> None:
    http = await serve(server, "127.0.0.1:0")
    try:
        assert http.new_token
        headers = {"Authorization": f"Bearer {http.new_token}"}
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(http.address + "/qmp", headers=headers) as ws,
        ):
            assert "QMP" in json.loads(await ws.receive_str(timeout=10))
    finally:
        await http.runner.cleanup()
