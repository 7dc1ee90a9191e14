"""Recording: bytes pass between a client and a server, and their messages go to a transcript."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import ByteSplitter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from qmpserver.transcript.message import Who

READ_SIZE = 1 << 16
MAX_HELD = 64 << 20  # characters of a message; a longer one is written in parts


class Peer(NamedTuple):
    """The connection to a client or a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def record(client: Peer, server: Peer, file: TextIO) -> None:
    """Pass bytes on unchanged until both sides have ended; write each message to `file`.

    A client that has sent its last command still receives the server's replies.

    Raises:
        OSError: The file cannot be written.
    """
    pumps = [
        asyncio.ensure_future(_pump(client.reader, server.writer, "client", file)),
        asyncio.ensure_future(_pump(server.reader, client.writer, "server", file)),
    ]
    try:
        await asyncio.gather(*pumps)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Who, file: TextIO
) -> None:
    splitter = ByteSplitter()

    def write(texts: Iterator[str]) -> None:
        for text in texts:
            print(Message(who, text), file=file, flush=True)

    while data := await _read(reader):
        write(splitter.feed(data))
        if splitter.held > MAX_HELD:
            write(splitter.rest())
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            break
    write(splitter.rest())
    with contextlib.suppress(OSError):
        if who == "client" and writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_SIZE)
    except ConnectionError:
        return b""
