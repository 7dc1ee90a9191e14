"""QMP over a WebSocket."""

import json
from typing import Any

import aiohttp

from tests.web.conftest import Web

PATIENCE = 10


async def test_a_session_is_that_of_a_socket(site: Web, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(site.url + "/qmp", headers=site.bearer) as ws:

        async def execute(text: str) -> Any:
            await ws.send_str(text)
            return json.loads(await ws.receive_str(timeout=PATIENCE))

        assert "QMP" in json.loads(await ws.receive_str(timeout=PATIENCE))
        early = await execute('{"execute": "query-name"}')
        assert early["error"]["class"] == "CommandNotFound"
        assert await execute('{"execute": "qmp_capabilities"}') == {"return": {}}
        assert await execute('{"execute": "query-name", "id": 1}') == {"return": {}, "id": 1}
        assert (await execute('{"execute": "stop"}'))["event"] == "STOP"
        assert json.loads(await ws.receive_str(timeout=PATIENCE)) == {"return": {}}
        for number in range(100):
            await ws.send_json({"execute": "query-name", "id": number})
        for number in range(100):  # one message a frame, in order
            assert json.loads(await ws.receive_str(timeout=PATIENCE))["id"] == number
