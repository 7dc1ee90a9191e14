"""Sit between a client and a server, and write what they say to a transcript.

  qmpctl record --listen unix:/tmp/a.sock --qmp unix:/tmp/q.sock FILE

It serves one client, and ends when that client or the server hangs up. It listens until that client
has come: a second one is refused. Bytes pass unchanged (file descriptors don't). The transcript can
be edited by hand: 'qmpctl replay --help' tells the format.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.tools.address import ServerAddress, add_qmp, address, server
from qmpserver.tools.errors import QmpctlError, ServerError
from qmpserver.transcript.format import Splitter, message

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import TextIO

    from qmpserver.transcript.format import Who


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument(
        "--listen",
        type=address,
        required=True,
        metavar="ADDRESS",
        help="where the client is to connect: unix:PATH or tcp:HOST:PORT",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="where the transcript goes; - is stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Record one conversation."""
    here, there = args.listen, server(args)
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if str(args.file) != "-":
            try:
                file = stack.enter_context(args.file.open("w", encoding="utf-8"))
            except OSError as error:
                raise QmpctlError(f"{args.file}: {error.strerror}") from None
        try:
            asyncio.run(_record(here, there, file))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
    return 0


async def _record(here: ServerAddress, there: ServerAddress, file: TextIO) -> None:
    loop = asyncio.get_running_loop()
    client: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = loop.create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if client.done():
            writer.close()  # it came at the same moment
        else:
            client.set_result((reader, writer))

    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        if isinstance(here.where, str):
            listening = await asyncio.start_unix_server(accept, sock=_bound(here.where))
        else:
            listening = await asyncio.start_server(accept, *here.where)
    except OSError as error:
        raise QmpctlError(f"{here}: {error.strerror}") from None
    except asyncio.CancelledError:  # in the moment in which it has begun to listen
        _remove(here)
        raise
    try:
        client_reader, client_writer = await client
    finally:
        listening.close()
        _remove(here)
    with contextlib.closing(client_writer):
        try:
            connection = await asyncio.to_thread(there.connect, 5.0)
        except OSError as error:
            raise ServerError(f"{there}: {error.strerror or error}") from None
        connection.setblocking(False)
        server_reader, server_writer = await asyncio.open_connection(sock=connection)
        pumps = [
            asyncio.ensure_future(_pump(client_reader, server_writer, "client", file)),
            asyncio.ensure_future(_pump(server_reader, client_writer, "server", file)),
        ]
        # What the server still has to say to a client that has sent its last is waited for.
        await asyncio.gather(*pumps)


def _bound(path: str) -> socket.socket:
    """A socket at a path where nothing is, for this user alone; asyncio would take over another's.

    Raises OSError.
    """
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        bound.close()
        raise
    return bound


def _remove(here: ServerAddress) -> None:
    if isinstance(here.where, str):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(here.where)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Who, file: TextIO
) -> None:
    """Pass on what one side says, and write it down."""
    splitter = Splitter()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(texts: Iterator[str]) -> None:
        for text in texts:
            print(message(who, re.sub("\r?\n", " ", text)), file=file, flush=True)

    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            write(splitter.feed(decoder.decode(data)))
            writer.write(data)
            await writer.drain()
    write(splitter.rest())
    with contextlib.suppress(ConnectionError, OSError):
        if who == "client" and writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
