"""Recording: what passes, and what is kept of it meanwhile."""

import asyncio
import io
import socket

import pytest

from qmpserver.transcript import recording
from qmpserver.transcript.recording import Peer, record


async def peer() -> tuple[Peer, socket.socket]:
    ours, theirs = socket.socketpair()
    return Peer(*await asyncio.open_connection(sock=ours)), theirs


async def test_a_message_without_end_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_HELD", 1000)
    monkeypatch.setattr(recording, "READ_SIZE", 600)
    client, client_side = await peer()
    server, server_side = await peer()
    file = io.StringIO()
    said = b'{"execute": "stop"}\n' + b"[" * 3000
    client_side.sendall(said)
    client_side.shutdown(socket.SHUT_WR)
    server_side.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        await record(client, server, file)
    first, *parts = file.getvalue().splitlines()
    assert first == '-> {"execute": "stop"}'
    assert len(parts) >= 2
    assert max(map(len, parts)) < 1700
    assert "".join(part.removeprefix("-> ") for part in parts) == "[" * 3000
    passed = b""
    while data := server_side.recv(4096):
        passed += data
    assert passed == said
    for one in (client, server):
        one.writer.close()
        await one.writer.wait_closed()
    client_side.close()
    server_side.close()
