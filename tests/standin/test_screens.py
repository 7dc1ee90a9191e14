"""Pictures of a stand-in's screen."""

import asyncio
import os
import struct
import zlib
from pathlib import Path

from qmpserver.standin.state.screens import HEIGHT, WIDTH
from tests.standin.conftest import Serve

WITH_SCREEN = {"setup": [{"command": "device_add", "arguments": {"driver": "VGA", "id": "v"}}]}


async def test_a_png(serve: Serve, tmp_path: Path) -> None:
    dump = {"filename": str(tmp_path / "screen.png"), "format": "png"}
    async with serve(WITH_SCREEN) as served:
        client = await served.client()
        assert await client.execute("screendump", dump) == {}
    data = (tmp_path / "screen.png").read_bytes()
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert data[at + 8 + size : at + 12 + size] == struct.pack(">I", zlib.crc32(kind + content))
        chunks[kind] = content
        at += 12 + size
    assert [*chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    assert zlib.decompress(chunks[b"IDAT"]) == bytes(HEIGHT * (1 + 3 * WIDTH))


async def test_a_pipe_waits_for_its_reader(serve: Serve, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with serve(WITH_SCREEN, max_clients=2) as served:
        client, other = await served.client(), await served.client()
        client.send("screendump", {"filename": str(pipe)})
        assert (await other.execute("query-name")) == {}  # served meanwhile
        picture = await asyncio.to_thread(pipe.read_bytes)
        assert await client.reply() == {"return": {}}
    assert picture == b"P6\n640 480\n255\n" + bytes(3 * WIDTH * HEIGHT)


async def test_a_pipe_without_its_reader(serve: Serve, tmp_path: Path) -> None:
    """A picture that cannot be written is refused; the pipe stays."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with serve(WITH_SCREEN) as served:
        client = await served.client()
        client.send("screendump", {"filename": str(pipe)})
        await asyncio.to_thread(lambda: os.close(os.open(pipe, os.O_RDONLY)))
        assert (await client.reply())["error"]["desc"] == "Unable to write to file: Broken pipe"
    assert pipe.exists()
