"""Devices that are no listening sockets."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpserver.monitor import DeviceError, Server
from tests.monitor.conftest import until

if TYPE_CHECKING:
    from tests.monitor.conftest import Commands


async def read_line(fd: int) -> bytes:
    async with asyncio.timeout(10):
        return await asyncio.to_thread(_read_line, fd)


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(fd, 1)
    return line


async def test_a_file_gets_the_greeting(server: Server, directory: Path) -> None:
    path = directory / "log"
    path.write_text("old\n")
    device = await server.open_monitor(f"file:{path}")
    assert device.filename == "file"
    assert "QMP" in json.loads(path.read_text())


async def test_a_file_that_cannot_be_opened(server: Server, directory: Path) -> None:
    with pytest.raises(DeviceError) as refusal:
        await server.open_monitor(f"file:{directory}/no/log")
    assert str(refusal.value) == f"Could not open '{directory}/no/log': No such file or directory"


async def test_named_pipes(server: Server, directory: Path) -> None:
    path = directory / "p"
    for suffix in (".in", ".out"):
        os.mkfifo(f"{path}{suffix}")
    device = await server.open_monitor(f"pipe:{path}")
    assert not device.waits
    await device.wait_connected()
    source = os.open(f"{path}.out", os.O_RDONLY)
    assert b"QMP" in await read_line(source)
    sink = os.open(f"{path}.in", os.O_WRONLY)
    os.write(sink, b'{"execute": "qmp_capabilities"}')
    assert await read_line(source) == b'{"return": {}}\r\n'
    os.close(source)
    os.close(sink)


async def test_a_pseudo_terminal_has_a_client_while_it_is_open(server: Server) -> None:
    device = await server.open_monitor("pty")
    kind, _, path = device.filename.partition(":")
    assert kind == "pty"
    assert not device.waits
    for _ in range(2):
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
        assert b"QMP" in await read_line(terminal)
        os.write(terminal, b'{"execute": "qmp_capabilities"}')
        assert await read_line(terminal) == b'{"return": {}}\r\n'
        assert server.clients == 1
        os.close(terminal)
        await until(lambda: server.clients == 0)
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    assert b"QMP" in await read_line(terminal)
    await server.close()
    assert os.read(terminal, 1) == b""
    os.close(terminal)


@pytest.mark.slow
async def test_reconnecting(server: Server, directory: Path) -> None:
    path = str(directory / "c")
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(path)
        manager.listen()
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        device = await server.open_monitor(f"unix:{path},reconnect=1")
        for _ in range(2):
            async with asyncio.timeout(10):
                connection, _ = await loop.sock_accept(manager)
                with connection:
                    assert b"QMP" in await loop.sock_recv(connection, 4096)
                    assert device.filename == f"unix:{path}"


async def test_connecting_to_a_missing_socket(server: Server, directory: Path) -> None:
    with pytest.raises(DeviceError) as refusal:
        await server.open_monitor(f"unix:{directory}/c")
    words = f"Failed to connect to '{directory}/c': No such file or directory"
    assert str(refusal.value) == words


PROGRAM = """
import asyncio
from qmpserver.monitor import Registry, Server

class Schema:
    commands = {}
    events = {}

async def main():
    server = Server(Registry(Schema()), version={})
    await server.open_monitor("stdio")
    try:
        await server.open_monitor("stdio")
    except Exception as error:
        print(error, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("from_file", [False, True])
def test_stdio(directory: Path, from_file: bool) -> None:
    script = directory / "commands"
    script.write_bytes(b'{"execute": "qmp_capabilities"}\n{"execute": "x"}\n')
    root = Path(__file__).parents[2]
    with (
        script.open("rb") as file,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=file if from_file else subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        ) as process,
    ):
        if process.stdin is not None:
            process.stdin.write(script.read_bytes())
            process.stdin.close()
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert json.loads(lines[0]) == {"QMP": {"version": {}, "capabilities": ["oob"]}}
        assert lines[1] == b"cannot use stdio by multiple character devices\n"
        assert json.loads(lines[2]) == {"return": {}}
        assert json.loads(lines[3])["error"]["class"] == "CommandNotFound"
        # The end of input is not the end of the program.
        assert process.poll() is None
        process.terminate()


async def test_a_device_has_one_user(server: Server, commands: "Commands") -> None:
    await server.open_monitor("null")
    with pytest.raises(DeviceError, match="Device 'compat_monitor0' is in use"):
        await server.open_monitor("chardev:compat_monitor0")
