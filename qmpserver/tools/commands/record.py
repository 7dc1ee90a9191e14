"""Pass a client's connection on to a server, and write their messages to a transcript.

  qmpctl record --listen unix:/tmp/a.sock --qmp unix:/tmp/q.sock FILE

It serves one client, and ends when that client or the server hangs up. It stops listening when that
client connects: a second one is refused. Bytes pass unchanged; file descriptors are not passed. The
transcript can be edited by hand: 'qmpctl replay --help' describes the format.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.tools.address import ServerAddress, add_qmp, address, server
from qmpserver.tools.errors import QmpctlError, ServerError
from qmpserver.transcript.recording import Peer, record

if TYPE_CHECKING:
    import argparse
    from typing import TextIO


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_qmp(parser)
    parser.add_argument(
        "--listen",
        type=address,
        required=True,
        metavar="ADDRESS",
        help="address to listen on for the client: unix:PATH or tcp:HOST:PORT",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="file to write the transcript to; - is stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Record one conversation."""
    here, there = args.listen, server(args)
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdout
            if str(args.file) != "-":
                file = stack.enter_context(args.file.open("w", encoding="utf-8"))
            asyncio.run(_record(here, there, file))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except BrokenPipeError:  # of stdout: `qmpctl` handles it for all commands
        raise
    except OSError as error:
        raise QmpctlError(f"{args.file}: {error.strerror}") from None
    return 0


async def _record(here: ServerAddress, there: ServerAddress, file: TextIO) -> None:
    loop = asyncio.get_running_loop()
    client: asyncio.Future[Peer] = loop.create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if client.done():
            writer.close()  # a second client, in the same turn of the event loop
        else:
            client.set_result(Peer(reader, writer))

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
    except asyncio.CancelledError:  # the socket may exist already
        _remove(here)
        raise
    try:
        peer = await client
    finally:
        listening.close()
        _remove(here)
    with contextlib.closing(peer.writer):
        try:
            connection = await asyncio.to_thread(there.connect, 5.0)
        except OSError as error:
            raise ServerError(f"{there}: {error.strerror or error}") from None
        connection.setblocking(False)
        await record(peer, Peer(*await asyncio.open_connection(sock=connection)), file)


def _bound(path: str) -> socket.socket:
    """Return a socket at a new path, which only this user may connect to.

    asyncio would replace an existing socket.

    Raises:
        OSError: The path exists, or cannot be created.
    """
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
        # Nobody can have connected: it does not listen yet.
        os.chmod(path, os.lstat(path).st_mode & 0o600)
    except OSError:
        bound.close()
        raise
    return bound


def _remove(here: ServerAddress) -> None:
    if isinstance(here.where, str):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(here.where)
