"""What clients can do that know no manners, and what it costs."""

import asyncio
import contextlib
import json
import logging
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme

from qmpserver.monitor import Server
from qmpserver.monitor.client import MAX_UNSENT_EVENTS, MAX_UNSENT_REPLIES
from qmpserver.vm.machine.machine import Machine
from qmpserver.web import channel, qmp, serve
from tests.conftest import PATIENCE
from tests.web.conftest import Web, serving
from tests.web.test_program import program

SHORT = 0.4
NEGOTIATION = '{"execute": "qmp_capabilities"}'


class Raw:
    """A connection on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ends(self) -> bytes:
        """Read until the server closes; return what it said."""
        said = b""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):
                while part := await self.reader.read(65536):
                    said += part
        return said

    def close(self) -> None:
        self.writer.close()


@pytest_asyncio.fixture
async def raw(site: Web) -> AsyncIterator[Any]:
    opened: list[Raw] = []

    async def connect(said: str | bytes = b"") -> Raw:
        opened.append(Raw(*await asyncio.open_connection("127.0.0.1", site.port)))
        opened[-1].writer.write(said.encode() if isinstance(said, str) else said)
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers get less time than usual; to be had before the site."""
    monkeypatch.setattr(serve, "LOGIN_TIMEOUT", SHORT)
    monkeypatch.setattr(qmp, "BODY_TIMEOUT", SHORT)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing that a client does is worth an error in the log."""
    yield
    assert not [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]


async def comes_true(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def answers(site: Web, http: aiohttp.ClientSession) -> None:
    """The server still does what it is there for."""
    async with http.post(
        site.url + "/qmp", json={"execute": "query-name"}, headers=site.bearer
    ) as response:
        assert await response.json() == {"return": {}}


@pytest.mark.slow
@pytest.mark.parametrize("said", ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\nA:"])
async def test_who_says_too_little_is_disconnected(
    impatient: None, site: Web, raw: Any, said: str
) -> None:
    connection = await raw(said)
    assert await connection.ends() == b""


@pytest.mark.slow
async def test_who_says_it_slowly_is_disconnected(impatient: None, site: Web, raw: Any) -> None:
    connection = await raw("GET / HTTP/1.1\r\n")
    ended = asyncio.create_task(connection.ends())
    sent = 0
    while not ended.done():
        with contextlib.suppress(ConnectionError):
            connection.writer.write(b"X-Slow: 1\r\n")
        sent += 1
        await asyncio.sleep(0.02)
    assert sent < PATIENCE / 0.02
    assert await ended == b""


async def test_who_goes_on_without_the_token_is_disconnected(
    impatient: None, site: Web, raw: Any
) -> None:
    connection = await raw()
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode()
    ended = asyncio.create_task(connection.ends())
    while not ended.done():
        with contextlib.suppress(ConnectionError):
            connection.writer.write(request)
        await asyncio.sleep(0.02)
    assert (await ended).startswith(b"HTTP/1.1 401 ")


async def test_a_stranger_whose_body_is_not_read_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, site: Web, raw: Any
) -> None:
    """A refusal keeps none of the connections for as long as a holder of the token has."""
    monkeypatch.setattr(serve, "GRACE", PATIENCE)
    monkeypatch.setattr(serve, "REFUSAL_GRACE", 0)
    connection = await raw(
        f"POST /qmp HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 100\r\n\r\n{{"
    )
    assert (await connection.ends()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.slow
async def test_who_has_the_token_has_time(
    impatient: None, site: Web, http: aiohttp.ClientSession
) -> None:
    async with http.ws_connect(site.url + "/qmp", headers=site.bearer) as ws:
        await ws.receive_str(timeout=PATIENCE)
        await asyncio.sleep(2 * SHORT)
        await ws.send_str(NEGOTIATION)
        assert json.loads(await ws.receive_str(timeout=PATIENCE)) == {"return": {}}


@pytest.mark.slow
async def test_websockets_that_do_not_answer_the_end(site: Web, raw: Any) -> None:
    assert channel._CLOSE_TIMEOUT < qmp.GRACE  # aiohttp has an error if both end at once
    for path in ("/qmp", "/live"):
        connection = await raw(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
            f"Authorization: Bearer {site.token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await connection.reader.readline()).startswith(b"HTTP/1.1 101 ")
    await site.site.close()


@pytest.mark.slow
async def test_a_body_that_does_not_come(impatient: None, site: Web, raw: Any) -> None:
    connection = await raw(
        f"POST /qmp HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: Bearer {site.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{"
    )
    assert (await connection.ends()).startswith(b"HTTP/1.1 408 ")
    assert site.server.clients == 0


@pytest.mark.parametrize(
    "head",
    [
        "GET /" + "x" * 100_000 + " HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nX-Long: " + "x" * 100_000,
        "GET / HTTP/1.1\r\n" + "x" * 100_000,
        "GET / HTTP/1.1\r\n" + "".join(f"X-{number}: 1\r\n" for number in range(1000)) + "\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: x, chunked, x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\nHost : x\n\n",
        "\r\n\r\n\r\nnonsense\r\n\r\n",
    ],
)
async def test_a_head_that_is_none_is_refused(
    impatient: None, site: Web, http: aiohttp.ClientSession, raw: Any, head: str
) -> None:
    said = await (await raw(head)).ends()
    refusals = (b"HTTP/1.0 400 ", b"HTTP/1.1 400 ", b"HTTP/1.1 421 ", b"HTTP/1.1 431 ")
    assert said == b"" or said.startswith(refusals)
    await answers(site, http)


async def test_a_head_that_is_too_long(
    impatient: None, site: Web, http: aiohttp.ClientSession, raw: Any
) -> None:
    """Many headers, each of which would do."""
    connection = await raw("GET / HTTP/1.1\r\n")
    for _ in range(serve.MAX_HEAD // 1000 + 1):
        connection.writer.write(b"X: " + b"x" * 1000 + b"\r\n")
    assert (await connection.ends()).startswith(b"HTTP/1.1 431 ")
    await answers(site, http)


@pytest.mark.parametrize("apart", [False, True])
async def test_one_request_is_read_before_the_token(site: Web, raw: Any, apart: bool) -> None:
    """Requests that follow a stranger's first one are not even parsed."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n"
    connection = await raw(request if apart else request * 1000)
    if apart:
        connection.writer.write(request.encode() * 1000)
    said = await connection.ends()
    assert said.count(b"HTTP/1.1 401 ") == 1
    await comes_true(lambda: not site.site.connections)


@pytest.mark.parametrize("apart", [False, True])
async def test_requests_in_a_row_with_the_token(site: Web, raw: Any, apart: bool) -> None:
    body = '{"execute": "query-name"}'
    request = (
        f"POST /qmp HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: Bearer {site.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    last = request.replace("Host:", "Connection: close\r\nHost:")
    connection = await raw(request[:-10] if apart else request * 9 + last)
    if apart:
        await comes_true(lambda: site.site.connections)
        connection.writer.write((request[-10:] + request * 8 + last).encode())
    assert (await connection.ends()).count(b"HTTP/1.1 200 ") == 10


async def test_strangers_cost_little(site: Web, raw: Any) -> None:
    """Each sends as many headers as it may, and never ends."""
    strangers = 64
    head = b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (serve.MAX_HEAD // 4)
    connections = [await raw() for _ in range(strangers)]
    await comes_true(lambda: site.site.connections == strangers)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for connection in connections:
            connection.writer.write(head[: serve.MAX_HEAD])
            await connection.writer.drain()
        await comes_true(
            lambda: all(
                len(one._head or b"") == serve.MAX_HEAD for one in site.site._unauthenticated
            )
        )
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < strangers * 2 * serve.MAX_HEAD


async def test_strangers_who_leave_are_forgotten(site: Web, raw: Any) -> None:
    for _ in range(20):
        (await raw("GET")).close()
    await comes_true(lambda: not site.site.connections and not site.site._unauthenticated)


async def test_long_commands_are_bounded_together(
    site: Web, http: aiohttp.ClientSession, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "MAX_BODIES", 1000)
    sizes: list[int] = []
    monkeypatch.setattr(qmp, "_check_size", sizes.append)
    command = json.dumps({"execute": "query-name", "id": "x" * 600})
    half = await raw(
        f"POST /qmp HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: Bearer {site.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(command)}\r\nConnection: close\r\n\r\n{command[:600]}"
    )
    headers = {**site.bearer, "Content-Type": "application/json"}
    await comes_true(lambda: 600 in sizes)
    async with http.post(site.url + "/qmp", data=command, headers=headers) as response:
        assert response.status == 503
    half.writer.write(command[600:].encode())
    assert (await half.ends()).startswith(b"HTTP/1.1 200 ")
    async with http.post(site.url + "/qmp", data=command, headers=headers) as response:
        assert response.status == 200


async def test_so_many_connections_and_no_more(
    site: Web, http: aiohttp.ClientSession, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 20)
    await answers(site, http)  # on a connection that it keeps
    strangers = [await raw("GET") for _ in range(19)]
    one_too_many = await raw(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n")
    assert await one_too_many.ends() == b""
    await answers(site, http)
    strangers[0].close()
    async with asyncio.timeout(PATIENCE):
        said = b""
        while not said:  # until the server has noticed
            connection = await raw(
                f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nConnection: close\r\n\r\n"
            )
            said = await connection.ends()
    assert said.startswith(b"HTTP/1.1 401 ")


@pytest.mark.slow
async def test_one_that_never_shakes_hands(
    impatient: None, server: Server, machine: Machine, tmp_path: Path
) -> None:
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    value = f"127.0.0.1:0,tls-cert={tmp_path}/cert,tls-key={tmp_path}/key"
    async with serving(server, machine, value) as web:
        for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            connection = Raw(*await asyncio.open_connection("127.0.0.1", web.port))
            connection.writer.write(said)
            assert b"HTTP" not in await connection.ends()
            connection.close()


async def websocket(site: Web, raw: Any) -> Raw:
    """Open a WebSocket that is past negotiation, and that is read by hand only."""
    connection: Raw = await raw(
        f"GET /qmp HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: Bearer {site.token}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE):
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        await connection.reader.readuntil(b"]}}")
        connection.writer.write(frame(NEGOTIATION))
        await connection.reader.readuntil(b'{"return": {}}')
    return connection


def frame(text: str) -> bytes:
    """Return a masked frame of text; the mask is 0."""
    data = text.encode()
    if len(data) < 126:
        head = bytes((0x81, 0x80 | len(data)))
    else:
        head = bytes((0x81, 0xFF)) + len(data).to_bytes(8, "big")
    return head + bytes(4) + data


def stop_reading(connection: Raw) -> None:
    """From now on nothing is taken off the socket, and the system keeps little."""
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    sock: socket.socket = connection.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


def executed(site: Web, name: str) -> int:
    return next(c for c in site.server.registry.commands if c.name == name).succeeded


async def settled(site: Web, name: str) -> int:
    """Wait until no more such commands are executed."""
    while True:
        before = executed(site, name)
        await asyncio.sleep(0.3)
        if before and executed(site, name) == before:
            return before


@pytest.mark.slow
async def test_who_never_reads_gets_little_done(
    site: Web, http: aiohttp.ClientSession, raw: Any
) -> None:
    connection = await websocket(site, raw)
    stop_reading(connection)
    for _ in range(1000):
        connection.writer.write(frame('{"execute": "query-qmp-schema"}'))
    done = await settled(site, "query-qmp-schema")
    size = len(json.dumps(site.server.registry.schema.introspect()))
    # What the server keeps, one reply more, and what the system keeps on both sides.
    assert done * size < MAX_UNSENT_REPLIES + 2 * size + (2 << 20)
    await answers(site, http)


async def test_who_reads_no_events_is_disconnected(
    site: Web, http: aiohttp.ClientSession, raw: Any
) -> None:
    connection = await websocket(site, raw)
    stop_reading(connection)
    event = {"guest": False, "reason": "host-qmp-quit", "padding": "x" * 65536}
    site.server._check_events = False  # this one is made up
    sent = 0
    async with asyncio.timeout(PATIENCE):
        while site.server.clients:
            site.server.emit("SHUTDOWN", event)
            sent += 65536
            await asyncio.sleep(0)
    assert MAX_UNSENT_EVENTS < sent < MAX_UNSENT_EVENTS + (2 << 20)
    await comes_true(lambda: not site.site.connections)
    await answers(site, http)


async def test_a_frame_that_is_too_long(site: Web, http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(site.url + "/qmp", headers=site.bearer) as ws:
        await ws.receive_str(timeout=PATIENCE)
        await ws.send_str('{"execute": "' + "x" * qmp.MAX_FRAME)
        message = await ws.receive(timeout=PATIENCE)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await answers(site, http)


@pytest.mark.parametrize("path", ["/", "/nothing"])
async def test_an_expectation_that_is_no_text(site: Web, raw: Any, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nConnection: close\r\n"
    said = await (await raw(head.encode() + b"Expect: \xee\r\n\r\n")).ends()
    assert said.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "path",
    [
        "/" + "a" * 5000,
        "/static/" + "a" * 300,
        "/static/" + "a" * 5000,
        "/static/" + "a/" * 2500,
        "/static/%00",
        "/static/%ff%ed%a0%80",
        "/static/",
        "/static/js",
        "/static/js/",
        "/static/index.html/",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/vendor/LICENSE",
    ],
)
async def test_a_path_that_names_nothing(site: Web, raw: Any, path: str) -> None:
    host = f"Host: 127.0.0.1:{site.port}\r\nAuthorization: {site.bearer['Authorization']}\r\n"
    for method in ("GET", "HEAD"):
        connection = await raw(f"{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")
        assert (await connection.ends()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("path", ["/qmp", "/live"])
@pytest.mark.parametrize("early", [False, True])
async def test_a_frame_that_is_not_masked(
    site: Web, raw: Any, http: aiohttp.ClientSession, path: str, early: bool
) -> None:
    """It is not executed, and the connection ends with the code of a protocol error."""
    executed: list[bool] = []
    site.server.registry.command("query-name", replace=True)(lambda: executed.append(True))
    text = b'{"execute": "qmp_capabilities"}{"execute": "query-name"}'
    frame = bytes([0x81, len(text)]) + text
    connection = await raw(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: {site.bearer['Authorization']}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        + (frame if early else b"")
    )
    async with asyncio.timeout(PATIENCE):
        said = await connection.reader.readuntil(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 101 ")
    if not early:
        connection.writer.write(frame)
    said = await connection.ends()
    code, reason = aiohttp.WSCloseCode.PROTOCOL_ERROR, b"\x88\x02"
    assert said.endswith(reason + code.to_bytes(2, "big"))
    assert not executed
    await comes_true(lambda: not site.site.connections)


async def test_the_end_while_requests_are_under_way(
    server: Server, machine: Machine, http: aiohttp.ClientSession
) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    @server.registry.command("query-name", replace=True)
    async def query_name() -> dict[str, Any]:
        begun.set()
        await released.wait()
        return {"name": "late"}

    async with serving(server, machine) as web:
        bearer = web.bearer
        async with http.ws_connect(web.url + "/qmp", headers=bearer) as ws:
            await ws.receive_str(timeout=PATIENCE)
            await ws.send_str(NEGOTIATION)
            await ws.receive_str(timeout=PATIENCE)
            posted = asyncio.create_task(
                http.post(web.url + "/qmp", json={"execute": "query-name"}, headers=bearer)
            )
            await begun.wait()
            begun.clear()
            await ws.send_str('{"execute": "query-name", "id": 1}')
            await begun.wait()
            closing = asyncio.create_task(web.site.close())
            await asyncio.sleep(0)
            released.set()
            late = {"return": {"name": "late"}}
            assert await ws.receive_json(timeout=PATIENCE) == late | {"id": 1}
            async with await posted as response:
                assert await response.json() == late
            message = await ws.receive(timeout=PATIENCE)
            assert message.data == aiohttp.WSCloseCode.GOING_AWAY
            await closing
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(web.url)


@pytest.mark.slow
async def test_the_end_does_not_wait_for_ever(
    server: Server, machine: Machine, http: aiohttp.ClientSession
) -> None:
    @server.registry.command("query-name", replace=True)
    async def query_name() -> None:
        await asyncio.Event().wait()

    async with serving(server, machine) as web:
        posted = asyncio.create_task(
            http.post(web.url + "/qmp", json={"execute": "query-name"}, headers=web.bearer)
        )
        silent = Raw(*await asyncio.open_connection("127.0.0.1", web.port))
        await comes_true(lambda: server.clients)
        async with asyncio.timeout(PATIENCE):
            await web.site.close()
        async with await posted as response:
            assert response.status == 503
        assert await silent.ends() == b""
        silent.close()
        assert server.clients == 0


@pytest.mark.slow
async def test_quit_is_answered(http: aiohttp.ClientSession) -> None:
    for over in ("post", "websocket"):
        async with program("-http", ":0") as process:
            assert process.stderr is not None
            line = (await process.stderr.readline()).decode()
            url, _, token = line.split()[-1].partition("?token=")
            bearer = {"Authorization": f"Bearer {token}"}
            if over == "post":
                async with http.post(
                    url + "qmp", json={"execute": "quit", "id": 7}, headers=bearer
                ) as response:
                    assert await response.json() == {"return": {}, "id": 7}
            else:
                async with http.ws_connect(url + "qmp", headers=bearer) as ws:
                    await ws.receive_str(timeout=PATIENCE)
                    await ws.send_str(NEGOTIATION)
                    await ws.receive_str(timeout=PATIENCE)
                    await ws.send_str('{"execute": "quit", "id": 7}')
                    said = [json.loads(message.data) async for message in ws]
                    assert {"return": {}, "id": 7} in said
                    assert ws.close_code == aiohttp.WSCloseCode.GOING_AWAY
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
            assert await process.stderr.read() == b""
