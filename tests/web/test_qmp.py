"""QMP over a WebSocket, and single commands by POST."""

import asyncio
import contextlib
import io
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from qmpserver.qmp import MAX_TOKEN_SIZE, Steps
from qmpserver.qmp.large import Tape
from qmpserver.web.qmp import MAX_WEBSOCKETS
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


async def test_so_many_at_a_time(site: Web, http: aiohttp.ClientSession) -> None:
    sockets = [
        await http.ws_connect(site.url + "/qmp", headers=site.bearer) for _ in range(MAX_WEBSOCKETS)
    ]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(site.url + "/qmp", headers=site.bearer)
    assert refused.value.status == 503
    assert await post(site, http, b'{"execute": "query-name"}') == (200, {"return": {}})
    await sockets.pop().close()
    async with asyncio.timeout(PATIENCE):
        while True:  # until the server has seen the end of it, too
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                sockets.append(await http.ws_connect(site.url + "/qmp", headers=site.bearer))
                break
            await asyncio.sleep(0.01)
    assert "QMP" in await sockets[-1].receive_json(timeout=PATIENCE)
    for ws in sockets:
        await ws.close()


async def test_what_is_no_websocket_is_told_so(site: Web, http: aiohttp.ClientSession) -> None:
    async with http.get(site.url + "/qmp", headers=site.bearer) as response:
        assert response.status == 426
        assert "POST" in await response.text()


JSON = {"Content-Type": "application/json"}


async def post(
    site: Web, http: aiohttp.ClientSession, body: Any, content_type: str = "application/json"
) -> tuple[int, Any]:
    headers = site.bearer | {"Content-Type": content_type}
    async with http.post(site.url + "/qmp", data=body, headers=headers) as response:
        text = await response.text()
        if response.content_type == "application/json":
            return response.status, json.loads(text)
        return response.status, text


async def test_a_large_body_that_is_refused_is_freed_in_steps(
    site: Web, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = []
    release = Tape.release

    def note(tape: Tape) -> Steps:
        freed.append(len(tape.values))
        return release(tape)

    monkeypatch.setattr(Tape, "release", note)
    status, answer = await post(site, http, b'{"id":[%b1]}{}' % (b"1," * 1000))
    assert (status, answer["error"]["desc"]) == (400, "Expecting one command in the body")
    assert freed == [1004]


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (b'{"execute": "query-name"}', {"return": {}}),
        (b"{'execute': 'query-name', 'id': [1, 'x']}", {"return": {}, "id": [1, "x"]}),
        (b'\r\n {\n "execute":\n "query-name" }\n\n', {"return": {}}),
        (b'{"execute": "nonsense"}', "The command nonsense has not been found"),
        (b'{"execute": "query-name", "arguments": {"x": 1}}', "Parameter 'x' is unexpected"),
        (b'{"execute": "query-name", "x": 1}', "QMP input member 'x' is unexpected"),
        (b'{"exec-oob": "query-name"}', "QMP input member 'exec-oob' is unexpected"),
        (
            b'{"execute": "qmp_capabilities"}',
            "Capabilities negotiation is already complete, command ignored",
        ),
        (b'{"execute": "getfd", "arguments": {"fdname": "x"}}', "No file descriptor supplied"),
        (b"[]", "QMP input must be a JSON object"),
        (b"1", "QMP input must be a JSON object"),
    ],
)
async def test_a_command_by_post(
    site: Web, http: aiohttp.ClientSession, body: bytes, reply: Any
) -> None:
    status, got = await post(site, http, body)
    assert status == 200
    if isinstance(reply, str):
        assert got["error"]["desc"].startswith(reply)
    else:
        assert got == reply
    assert site.server.clients == 0


@pytest.mark.parametrize(
    ("body", "desc"),
    [
        (b"", "Expecting one command in the body"),
        (b"  \n", "Expecting one command in the body"),
        (b'{"execute": "stop"', "Expecting one command in the body"),
        (b'{"execute": "stop"} {"execute": "cont"}', "Expecting one command in the body"),
        (b'{"execute": "stop"}\n{', "Expecting one command in the body"),
        (b'{"execute": "stop",}', "JSON parse error, "),
        (b'\x1f\x8b {"execute": "stop"}', "JSON parse error, stray"),
        (b"[" * 2000, "JSON nesting depth limit exceeded"),
    ],
)
async def test_what_is_not_one_command_is_not_executed(
    site: Web, http: aiohttp.ClientSession, body: bytes, desc: str
) -> None:
    status, got = await post(site, http, body)
    assert status == 400
    assert got["error"]["desc"].startswith(desc)
    assert site.machine.running


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_a_form_s_post_is_refused(
    site: Web, http: aiohttp.ClientSession, content_type: str
) -> None:
    status, said = await post(site, http, b'{"execute": "stop"}', content_type)
    assert status == 415
    assert "application/json" in said
    assert site.machine.running


async def test_events_are_not_in_the_answer(site: Web, http: aiohttp.ClientSession) -> None:
    assert await post(site, http, b'{"execute": "stop"}') == (200, {"return": {}})
    assert not site.machine.running
    assert await post(site, http, b'{"execute": "cont", "id": 1}') == (200, {"return": {}, "id": 1})
    assert site.machine.running


@pytest.mark.slow
async def test_a_body_has_the_size_that_a_socket_allows(
    site: Web, http: aiohttp.ClientSession
) -> None:
    async def parts(count: int) -> AsyncIterator[bytes]:
        yield b'{"execute": "stop", "id": "'
        for _ in range(count):
            yield b"x" * 65536

    status, _ = await post(site, http, parts(MAX_TOKEN_SIZE // 65536))
    assert status == 413
    assert site.machine.running
    headers = site.bearer | JSON | {"Content-Length": str(MAX_TOKEN_SIZE + 1)}
    async with http.post(site.url + "/qmp", headers=headers) as response:
        assert response.status == 413  # at once: nothing of it was sent


@pytest.mark.slow
async def test_a_long_body_does_not_hold_up_others(site: Web, http: aiohttp.ClientSession) -> None:
    names = b", ".join(b'"%d": %d.5' % (number, number) for number in range(20_000))
    body = b'{"execute": "query-name", "arguments": {%b}}' % names
    long = asyncio.create_task(post(site, http, io.BytesIO(body)))
    async with http.ws_connect(site.url + "/qmp", headers=site.bearer) as ws:
        await ws.receive_str(timeout=PATIENCE)
        await ws.send_str('{"execute": "qmp_capabilities"}')
        await ws.receive_str(timeout=PATIENCE)
        answered = 0
        while not long.done():
            await ws.send_str('{"execute": "query-name"}')
            await ws.receive_str(timeout=PATIENCE)
            answered += 1
    status, reply = await long
    assert status == 200
    assert reply["error"]["desc"] == "Parameter '0' is unexpected"
    assert answered > len(body) // 65536


async def test_with_curl(site: Web) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        *(curl, "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {site.token}"),
        *("--json", '{"execute": "query-status"}', f"{site.url}/qmp"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["return"]["status"] == "running"
