"""Requests to the web face: HTTP, WebSockets and tokens, whole and spoilt.

Without the token nothing is executed and nothing told: each answer is a refusal. With it a whole
command is answered as on a socket. No answer is 500 or has the token in it; a holder of the token
is answered within `BOUND` all the time; no connection and no client is left.
"""

import asyncio
import base64
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator

import uvloop

from qmpserver.monitor import Registry, Server
from qmpserver.releases import own_schema
from qmpserver.vm.accel import AccelOptions, open_accelerator
from qmpserver.vm.accel.memory import Ram
from qmpserver.vm.commands import register_all
from qmpserver.vm.commands.control import version_info
from qmpserver.vm.machine.guest import DirtyGuest
from qmpserver.vm.machine.machine import Machine
from qmpserver.web import serve
from tests.fuzz.explore import Case
from tests.fuzz.messages import encode, json_value, pieces, spoil
from tests.monitor.conftest import until
from tests.web.conftest import Web, serving

BOUND = 5.0
PATIENCE = 60.0
ROUNDS = 5  # of requests at once, in a case
QUIET = 0.01  # seconds in which a peer says something, or is waiting for more
PATHS = ["/", "/qmp", "/live", "/metrics", "/help", "/static/index.html", "/static/../x", "/x",
         "/qmp/", "//qmp", "/static/%2e%2e/%00", "/" + "y" * 3000, "*", "/qmp?token=x",
         "/?token="]  # fmt: skip
METHODS = ["GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "CONNECT", "get"]
HEADERS = ["Origin: http://evil.example", "Origin: null", "Host: evil.example", "Host: ",
           "Range: x", "Content-Type: application/json", "Content-Type: text/plain",
           "Expect: 100-continue", "Content-Encoding: gzip", "Transfer-Encoding: chunked",
           "Content-Length: 5", "Content-Length: -1", "Cookie: a=b", "X: " + "z" * 5000,
           "\u00e9: x", "Upgrade: h2c", "Connection: close", "Authorization: Basic eDp5",
           "Authorization: Bearer", "Sec-WebSocket-Version: 12"]  # fmt: skip
COMMANDS = ["query-name", "query-status", "query-version", "stop", "cont", "query-kvm", "nothing",
            "query-vcpu-dirty-limit", "query-migrate", "query-cpus-fast"]  # fmt: skip
REFUSED = re.compile(rb"HTTP/[01]\.[0-9] (?:4\d\d|505|501) |HTTP/1\.1 100 ")
STATUS = re.compile(rb"^HTTP/[01]\.[0-9] (\d\d\d) ", re.MULTILINE)
ALLOWED = {100, 101, 200, 204, 303, 400, 401, 403, 404, 405, 408, 411, 413, 415, 417, 421, 426, 431,
           501, 503, 505}  # fmt: skip


class Request:
    """A request; `whole` if it is a command that must be executed."""

    def __init__(self, rng: random.Random, web: Web) -> None:
        self.knows = rng.random() < 0.6
        self.whole = self.knows and rng.random() < 0.5
        self.command = rng.choice(COMMANDS)
        self.websocket = rng.random() < 0.35
        host = f"Host: 127.0.0.1:{web.port}"
        token = web.token if self.knows else rng.choice(["", "x", web.token[:-1], web.token + "x"])
        entry = rng.choice([f"Authorization: Bearer {token}", f"Cookie: {_cookie(web)}={token}"])
        message = {"execute": self.command, "id": json_value(rng, 2)}
        body = encode(rng, message)
        headers = [host, entry, f"Content-Length: {len(body)}", "Content-Type: application/json"]
        if rng.random() < 0.2:
            headers[2] = "Transfer-Encoding: chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        method, path = "POST", "/qmp"
        if self.websocket:
            key = base64.b64encode(rng.randbytes(16)).decode()
            headers = [host, entry, "Upgrade: websocket", "Connection: Upgrade"]
            headers += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
            method, path, body = "GET", rng.choice(["/qmp", "/qmp", "/live"]), frames(rng, message)
        if not self.whole:
            for _ in range(rng.randrange(4)):
                index = rng.randrange(len(headers))
                match rng.randrange(3):
                    case 0:
                        headers.insert(index, rng.choice(HEADERS))
                    case 1:
                        headers[index] = rng.choice(HEADERS)
                    case _ if len(headers) > 1:
                        del headers[index]
            method, path = rng.choice([method, *METHODS]), rng.choice([path, path, *PATHS])
            if rng.random() < 0.2 and not self.websocket:
                body = spoil(rng, body)
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode("utf-8")
        self.data = head + body
        if not self.whole and rng.random() < 0.3:
            self.data = spoil(rng, self.data)
        # What spoils it may make a token of what was none: it has 43 letters, so it does not.
        self.said_token = web.token.encode() in self.data


def _cookie(web: Web) -> str:
    return f"qmpserver-{web.port}"


def frames(rng: random.Random, message: object) -> bytes:
    """Return a few frames of a WebSocket, most of them right."""
    said = [b'{"execute": "qmp_capabilities"}', encode(rng, message)]
    data = b""
    for one in said:
        cut = rng.randint(0, len(one)) if rng.random() < 0.2 else len(one)
        data += frame(rng, one[:cut], fin=cut == len(one))
        if cut < len(one):
            data += frame(rng, one[cut:], opcode=0)
        if rng.random() < 0.3:
            data += rng.choice(
                [
                    frame(rng, b"ping", opcode=9),
                    frame(rng, b"x" * 126, opcode=9),
                    frame(rng, b"\xff", opcode=1),
                    frame(rng, b"", opcode=rng.randrange(16), fin=rng.random() < 0.5),
                    frame(rng, b"\x03\xe8bye", opcode=8),
                    frame(rng, rng.randbytes(3), opcode=8),
                    frame(rng, b"{}", masked=False),
                    b"\x81\xff" + b"\xff" * 8,
                    rng.randbytes(20),
                ]
            )
    return data


def frame(
    rng: random.Random, data: bytes, *, opcode: int = 1, fin: bool = True, masked: bool = True
) -> bytes:
    """Return a frame."""
    mask = rng.randbytes(4) if masked else b""
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    head = bytes([opcode | fin << 7, length[0] | masked << 7]) + length[1:]
    if masked:
        data = bytes(one ^ mask[index % 4] for index, one in enumerate(data))
    return head + mask + data


async def talk(rng: random.Random, web: Web) -> int:
    """Send a request in pieces; check all that is answered."""
    request = Request(rng, web)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces(rng, request.data):
                writer.write(piece)
                if rng.random() < 0.1:
                    await writer.drain()
        answer = await _heard(reader, request)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    _check(request, answer, web)
    return 1


async def _heard(reader: asyncio.StreamReader, request: Request) -> bytes:
    """Return what is answered, until nothing more comes for a while."""
    answer = b""
    wait = PATIENCE if request.whole and not request.websocket else QUIET
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            async with asyncio.timeout(wait):
                part = await reader.read(65536)
            if not part:
                break
            answer += part
            wait = QUIET
    return answer


def _check(request: Request, answer: bytes, web: Web) -> None:
    shown = f"{request.data!r}\nwas answered {answer[:2000]!r}"
    first = STATUS.match(answer)
    assert first or not answer or request.websocket, shown
    if first:
        assert int(first[1]) in ALLOWED, shown
        assert int(first[1]) != 500, shown
    if not request.said_token:
        assert not answer or REFUSED.match(answer), shown
    assert request.said_token or web.token.encode() not in answer, shown
    if request.whole and not request.websocket:
        assert first, shown
        assert int(first[1]) == 200, shown
        reply = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert "return" in reply or reply["error"]["class"] == "CommandNotFound", shown


async def bystander(web: Web, ended: asyncio.Event) -> float:
    """Ask with the token until it is over; return the longest time to an answer."""
    body = b'{"execute":"query-name","id":"still there?"}'
    head = (
        f"POST /qmp HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nAuthorization: Bearer {web.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    worst = 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        while True:
            began = time.monotonic()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b'"still there?"}\r\n')
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            worst = max(worst, time.monotonic() - began)
            if ended.is_set():
                return worst
            await asyncio.sleep(0.002)
    finally:
        writer.close()
        await writer.wait_closed()


async def _round(rng: random.Random, web: Web) -> int:
    async with asyncio.timeout(PATIENCE):
        ended = asyncio.Event()
        watching = asyncio.ensure_future(bystander(web, ended))
        seeds = [rng.random() for _ in range(rng.choice([1, 5, 20, 100]))]
        try:
            counts = await asyncio.gather(*(talk(random.Random(one), web) for one in seeds))
        finally:
            ended.set()
            worst = await watching
        assert worst < BOUND, f"a holder of the token waited for {worst:.3f} s"
        await until(lambda: not (web.site.connections or web.server.clients))
    return sum(counts)


async def _case(rng: random.Random, web: Web) -> int:
    return sum([await _round(rng, web) for _ in range(ROUNDS)])


@contextlib.asynccontextmanager
async def _serving() -> AsyncIterator[Web]:
    """Serve a machine that runs."""
    ram = Ram(16 << 20)
    accel, _ = open_accelerator(ram, [AccelOptions("soft", 4096)])
    guest = DirtyGuest({"rate": "10", "size": "1M"}, ram.buffer, 1, accel.clock_hz)
    guest.load()
    accel.add_vcpus(guest, 1)
    machine = Machine(ram, accel, guest)
    machine.start()
    registry = Registry(own_schema())
    register_all(registry, machine)
    server = Server(registry, version=version_info())
    machine.emit = server.emit
    try:
        async with serving(server, machine) as web:
            yield web
    finally:
        await server.close(0.1)
        await machine.close()


@contextlib.contextmanager
def cases() -> Iterator[Case]:
    """One server has all cases: their connections must leave nothing in it."""
    serve.LOGIN_TIMEOUT = 1.0
    serve.REFUSAL_GRACE = QUIET
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        web = runner.run(stack.enter_async_context(_serving()))
        try:
            yield lambda rng: runner.run(_case(rng, web))
        finally:
            runner.run(stack.aclose())
