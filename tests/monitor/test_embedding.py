"""A server inside another program, through the public interface alone."""

import asyncio
import inspect
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

import qmpserver
from qmpserver import CommandError, Registry, RegistryError, Schema, Server

PATIENCE = 10.0
VERSION = {"qemu": {"major": 1, "minor": 0, "micro": 0}, "package": ""}
SCHEMA = Schema.load(Path(__file__).parents[2] / "examples" / "daemon-schema.json")


def kettle(heat: Any = lambda to=100: None) -> Registry:
    registry = Registry(SCHEMA)
    registry.command("query-kettle")(lambda: {"temperature": 20})
    registry.command("heat")(heat)
    registry.command("quit")(lambda: None)
    return registry


def test_public_names_are_there() -> None:
    for name in qmpserver.__all__:
        assert getattr(qmpserver, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Kettle'"):
        _ = qmpserver.Kettle


def test_package_imports_nothing_until_used() -> None:
    code = "import sys, json, qmpserver; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert "qmpserver" in modules
    assert not {"asyncio", "qmpserver.monitor", "qmpserver.qapi"} & set(modules)


async def test_serves_inside_the_block_and_is_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "kettle.sock"
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE):
        async with Server(kettle(), version=VERSION) as server:
            await server.serve_unix(path)
            await client.connect(str(path))
            assert await client.execute("query-kettle") == {"temperature": 20}
        assert not path.exists()
        with pytest.raises(EOFError):
            await client.disconnect()


async def test_mismatch_is_told_before_a_client_can_come() -> None:
    registry = Registry(SCHEMA)
    registry.command("cool")(lambda: None)
    with pytest.raises(RegistryError) as told:
        async with Server(registry, version=VERSION):
            pytest.fail("entered")
    assert str(told.value) == (
        "handler of 'cool' is not declared; command 'heat' has no handler; "
        "command 'query-kettle' has no handler; command 'quit' has no handler"
    )


def test_public_names_are_documented() -> None:
    """Each with its types and, unless it is an error or a plain value, its thread."""
    for name in qmpserver.__all__:
        exported = getattr(qmpserver, name)
        if not isinstance(exported, type):
            continue
        assert name in (qmpserver.__doc__ or "")
        assert exported.__doc__
        if not issubclass(exported, Exception | tuple):
            assert "thread" in exported.__doc__
        for member, function in inspect.getmembers(exported, inspect.isfunction):
            if not member.startswith("_"):
                assert function.__doc__, f"{name}.{member}"
                assert "return" in function.__annotations__, f"{name}.{member}"


async def test_three_lines_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "kettle.sock"
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE), Server(kettle()) as server:
        await server.serve_unix(path)
        await client.connect(str(path))
        assert client.greeting is not None
        assert client.greeting.QMP.version["qemu"] == {"major": 0, "minor": 0, "micro": 0}
        await client.disconnect()


async def test_handlers_of_every_kind(tmp_path: Path) -> None:
    """A function, a coroutine function, an object; one that refuses; one out of band."""
    (tmp_path / "schema.json").write_text(
        "{ 'struct': 'Number', 'data': { 'n': 'int' } }\n"
        "{ 'command': 'plain', 'data': { 'n': 'int' }, 'returns': 'Number' }\n"
        "{ 'command': 'slow', 'returns': 'Number' }\n"
        "{ 'command': 'object', 'returns': 'Number' }\n"
        "{ 'command': 'refuse' }\n"
        "{ 'command': 'hurry', 'allow-oob': true }\n"
    )

    class Slow:
        async def __call__(self) -> dict[str, int]:
            await asyncio.sleep(0)
            return {"n": 3}

    hurried = asyncio.Event()
    registry = Registry(Schema.load(tmp_path / "schema.json"))
    registry.command("plain")(lambda n: {"n": n})
    registry.command("object")(Slow())
    registry.command("hurry")(hurried.set)

    @registry.command("slow")
    async def slow() -> dict[str, int]:
        await hurried.wait()
        return {"n": 2}

    @registry.command("refuse")
    async def refuse() -> None:
        raise CommandError("not now", "DeviceNotActive")

    path = tmp_path / "q.sock"
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE), Server(registry) as server:
        await server.serve_unix(path)
        await client.connect(str(path))
        assert await client.execute("plain", {"n": 1}) == {"n": 1}
        assert await client.execute("object") == {"n": 3}
        with pytest.raises(ExecuteError, match="not now") as refused:
            await client.execute("refuse")
        assert refused.value.error_class == "DeviceNotActive"
        waiting = asyncio.create_task(client.execute("slow"))
        assert await client.execute("hurry", oob=True) == {}
        assert await waiting == {"n": 2}
        await client.disconnect()


async def test_misfits_are_told_before_a_client_can_come() -> None:
    registry = Registry(SCHEMA)
    registry.command("query-kettle")(lambda: {"temperature": 20})
    registry.command("quit")(lambda force: None)
    registry.command("heat")(lambda to: None)
    with pytest.raises(RegistryError) as told:
        async with Server(registry):
            pytest.fail("entered")
    assert str(told.value) == (
        "handler of 'heat' has no default for optional argument 'to'; "
        "handler of 'quit' needs 'force', which is no argument of it"
    )


async def test_events_from_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "kettle.sock"
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE), Server(kettle(), version=VERSION) as server:
        await server.serve_unix(path)
        await client.connect(str(path))
        failures: list[type[Exception]] = []

        def work() -> None:
            for event, data in (("HOT", {"temperature": "very"}), ("COLD", None)):
                try:
                    server.emit_threadsafe(event, data)
                except (ValueError, KeyError) as error:
                    failures.append(type(error))
            for temperature in range(3):
                server.emit_threadsafe("HOT", {"temperature": temperature})

        with client.listener("HOT") as events:
            thread = threading.Thread(target=work)
            thread.start()
            got = [(await events.get())["data"] for _ in range(3)]
            thread.join()
        await client.disconnect()
    assert got == [{"temperature": n} for n in range(3)]
    assert len(failures) == 2


async def test_emit_is_refused_in_another_thread() -> None:
    async with Server(kettle()) as server:
        with pytest.raises(RuntimeError, match=r"emit_threadsafe\(\)"):
            await asyncio.to_thread(server.emit, "HOT", {"temperature": 1})


async def test_a_thread_leaves_sending_to_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "kettle.sock"
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE), Server(kettle(), version=VERSION) as server:
        await server.serve_unix(path)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.setblocking(False)
            await loop.sock_connect(peer, str(path))
            assert b"QMP" in await loop.sock_recv(peer, 4096)
            await loop.sock_sendall(peer, b'{"execute": "qmp_capabilities"}')
            assert b"return" in await loop.sock_recv(peer, 4096)
            thread = threading.Thread(
                target=server.emit_threadsafe, args=("HOT", {"temperature": 1})
            )
            thread.start()
            thread.join()  # and the loop stands still meanwhile
            with pytest.raises(BlockingIOError):
                peer.recv(1)
            assert b"HOT" in await loop.sock_recv(peer, 4096)


async def test_end_of_the_block_finishes_the_reply(tmp_path: Path) -> None:
    path = tmp_path / "kettle.sock"
    begun, go = asyncio.Event(), asyncio.Event()

    async def heat(to: int = 100) -> None:
        begun.set()
        await go.wait()

    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE):
        async with Server(kettle(heat), version=VERSION) as server:
            await server.serve_unix(path)
            await client.connect(str(path))
            reply = asyncio.create_task(client.execute("heat"))
            await begun.wait()
            # The handler ends only after closing has begun.
            asyncio.get_running_loop().call_later(0.05, go.set)
        assert await reply == {}
        with pytest.raises(EOFError):
            await client.disconnect()
