"""Large messages do not hold up other clients."""

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from qmpserver.monitor import Registry, Server
from qmpserver.monitor.registry import MAX_ARGUMENTS
from qmpserver.qapi import Schema
from qmpserver.qmp.parser import _LargeBuilder
from tests.monitor.conftest import until

PATIENCE = 60.0
WORST = 0.1  # seconds of the event loop's thread, ten times as long as on an idle machine
ESCAPES = b"\\u1234a\\n"

SCHEMA = """
{ 'enum': 'Mode', 'data': ['on', 'off'] }
{ 'struct': 'Item', 'data': { 'mode': 'Mode', '*name': 'str' } }
{ 'command': 'store', 'data': { '*items': ['Item'], '*text': 'str', '*value': 'any' },
  'returns': 'int' }
{ 'command': 'loose', 'data': { '*value': 'any' }, 'gen': false }
{ 'pragma': { 'command-returns-exceptions': [ 'store' ] } }
"""
ITEM = b'{"mode":"on"},'


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    path = tmp_path / "schema.json"
    path.write_text(SCHEMA)
    registry = Registry(Schema.load(path))
    registry.command("loose")(lambda value=None: None)

    @registry.command("store")
    def store(items: object = (), text: str = "", value: object = None) -> int:
        return len(items) + len(text)  # type: ignore[arg-type]

    return registry


async def answer(path: Path, message: bytes) -> bytes:
    """Return the reply to one message of a client of its own."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 30)
    writer.write(b'{"execute": "qmp_capabilities"}\n')
    await reader.readline()
    await reader.readline()
    writer.write(message)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        reply = await reader.read()
    writer.close()
    return reply


REFUSED = b'"desc": "Arguments of %b are too large'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (b'"items":[%b{"mode":"off"}]' % (ITEM * 1000), b'"return": 1001}'),
        (b'"text":"%b"' % (ESCAPES * 10_000), b'"return": 30000}'),
        (
            b'"items":[%b{"mode":"up"}]' % (ITEM * MAX_ARGUMENTS),
            b"'mode' does not accept value 'up'",
        ),
        (b'"items":[%b{}]' % (ITEM * MAX_ARGUMENTS), b"'items[16384].mode' is missing"),
        (b'"items":[%b1]' % (ITEM * MAX_ARGUMENTS), b"for 'items[16384]', expected: object"),
        (b'"items":[%b{"mode":"on"}]' % (ITEM * MAX_ARGUMENTS), REFUSED % b"store"),
        (b'"items":[%b{"mode":"on"}],"x":1' % (ITEM * MAX_ARGUMENTS), b"'x' is unexpected"),
        (b'"value":[%b1]' % (b"1," * MAX_ARGUMENTS), REFUSED % b"store"),
        (b'"text":"%b"' % (b"a" * (9 << 20)), REFUSED % b"store"),
        (b'"text":[%b1]' % (b"1," * MAX_ARGUMENTS), b"for 'text', expected: string"),
        (b'"items":"%b"' % (b"a" * (9 << 20)), b"for 'items', expected: array"),
    ],
)
async def test_large_arguments(
    registry: Registry, tmp_path: Path, arguments: bytes, says: bytes
) -> None:
    async with Server(registry) as server:
        await server.serve_unix(tmp_path / "q", max_clients=2)
        reply = await answer(tmp_path / "q", b'{"execute":"store","arguments":{%b}}' % arguments)
        assert says in reply


@pytest.mark.slow
async def test_large_arguments_that_only_the_handler_checks(
    registry: Registry, tmp_path: Path
) -> None:
    async with Server(registry) as server:
        await server.serve_unix(tmp_path / "q", max_clients=2)
        message = b'{"execute":"loose","arguments":{"value":[%b1]}}'
        assert b'"return": {}' in await answer(tmp_path / "q", message % (b"1," * 1000))
        refused = await answer(tmp_path / "q", message % (b"1," * MAX_ARGUMENTS))
        assert REFUSED % b"loose" in refused


@pytest.mark.slow
async def test_names_that_are_told_in_full(registry: Registry, tmp_path: Path) -> None:
    name = b"a" * 100_000
    items = ITEM * MAX_ARGUMENTS
    async with Server(registry) as server:
        await server.serve_unix(tmp_path / "q", max_clients=2)
        for message, says in [
            (b'{"execute":"%b"}' % name, b"The command %b has not been found"),
            (b'{"execute":"store","arguments":{"%b":1}}' % name, b"Parameter '%b' is unexpected"),
            (
                b'{"execute":"store","arguments":{"items":[%b{"mode":"%b"}]}}' % (items, name),
                b"Parameter 'mode' does not accept value '%b'",
            ),
            (
                b'{"execute":"store","arguments":{"items":[%b{"mode":"on","%b":1}]}}'
                % (items, name),
                b"Parameter 'items[16384].%b' is unexpected",
            ),
        ]:
            assert b'"desc": "%b"}' % (says % name) in await answer(tmp_path / "q", message)


async def test_what_a_client_has_begun_to_say_is_freed_in_steps(
    registry: Registry, tmp_path: Path
) -> None:
    """Also while a command of the client that left goes on."""
    begun = asyncio.Event()

    @registry.command("loose", replace=True)
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with Server(registry) as server:
        await server.serve_unix(tmp_path / "q")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "q")
        await reader.readline()
        writer.write(b'{"execute": "qmp_capabilities"}{"execute": "loose"}')
        await begun.wait()
        (executor,) = server._executors
        parser = executor.session._parser
        writer.write(b'{"id":[%b' % (b"1," * 10_000))
        await until(lambda: isinstance(parser._builder, _LargeBuilder))
        values = parser._builder.tape.values  # type: ignore[attr-defined]
        await until(lambda: len(values) > 10_000)
        writer.close()
        await until(lambda: not values)
        await server.close(0)


def message(subject: bytes) -> bytes:
    return b'{"execute":"loose","id":%b}' % subject


MANY = b",".join(b'"k%d":1.5' % number for number in range(6_000))


@pytest.mark.serial
@pytest.mark.parametrize(
    "data",
    [
        message(b'"%b"' % (ESCAPES * 40_000)),
        message(b'"%b"' % (b"a" * (4 << 20))),
        message(b'"%b"' % ("\u00e9a\x7f".encode() * 40_000)),
        message(b"[%b1]" % (b"1," * 15_000)),
        message(b"[%b1]" % (b"[],{}," * 6_000)),
        message(b"{%b}" % MANY),
        message(b"1%b.5" % (b"0" * (4 << 20))),
        b'{"execute":"%b"}' % (ESCAPES * 40_000),
        b'{"execute":"loose","%b":1}' % (ESCAPES * 40_000),
        b'{"execute":"loose",%b}' % MANY,
        b'{"execute":"store","arguments":{%b}}' % MANY,
        b'{"execute":"store","arguments":{"items":[%b{}]}}' % (ITEM * 20_000),
        b'{"execute":"qmp_capabilities","arguments":{"enable":[%b1]}}' % (b'"oob",' * 15_000),
        b'{"execute":"loose","id":"%b\x01\n' % (b"\xc3" * 100_000),
    ],
    ids=lambda data: f"{data[:30]!r}",
)
async def test_others_are_served_meanwhile(
    registry: Registry, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No callback of the event loop takes long, whoever else runs on the machine."""
    took: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        start = time.thread_time()
        run(handle)
        took.append(time.thread_time() - start)

    async with Server(registry) as server:
        await server.serve_unix(tmp_path / "q", max_clients=2)
        client = await asyncio.create_subprocess_exec(
            "python3", "-c", CLIENT, str(tmp_path / "q"), stdin=-1, stdout=-1
        )
        assert client.stdin is not None
        (tmp_path / "data").write_bytes(data)
        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        await client.communicate(b"go")
    assert client.returncode == 0
    assert max(took) < WORST
    assert statistics.median(took) < WORST / 4


CLIENT = """
import pathlib, socket, sys, threading
path = pathlib.Path(sys.argv[1])
sys.stdin.read()
data = path.with_name("data").read_bytes()
client = socket.socket(socket.AF_UNIX)
client.connect(str(path))
client.sendall(b'{"execute": "qmp_capabilities"}')
def send():
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while client.recv(1 << 16):
    pass
"""
