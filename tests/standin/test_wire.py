"""The connection with faults on it, between a channel and an owner that record their calls."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from qmpserver.monitor.channel import Channel
from qmpserver.standin import faults, vocabulary
from qmpserver.standin.wire import Wire
from tests.standin.conftest import Raw, Serve

SCHEMA = vocabulary.load(vocabulary.DEFAULT).schema
REPLY = b'{"return": {}}\r\n'
EVENT = b'{"event": "STOP"}\r\n'


class Owner:
    """Records the calls."""

    def __init__(self) -> None:
        self.received = b""
        self.has_drained = asyncio.Event()
        self.has_received = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.has_received.set()

    def drained(self) -> None:
        self.has_drained.set()

    def eof_received(self) -> None:
        raise AssertionError

    def channel_closed(self) -> None:
        pass


class Peer:
    """A wire with faults, and the other end of its connection."""

    def __init__(self, *specs: faults.Spec) -> None:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        theirs.settimeout(0)
        self.socket = theirs
        self.owner = Owner()
        loop = asyncio.get_running_loop()
        made = [faults.FAULTS[spec.name](spec, SCHEMA) for spec in specs]
        self.channel = Channel(loop, mine)
        self.wire = Wire(self.channel, made, loop, first=True)

    def got(self) -> bytes:
        """Return the bytes that have come so far."""
        try:
            return self.socket.recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for peer in made:
        peer.wire.close()
        peer.socket.close()


async def test_bytes_on_their_way_are_unsent_until_they_are_flushed(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("split-reply"))
    peers.append(peer)
    peer.wire.start(peer.owner)
    peer.wire.write(REPLY)
    got = peer.got()
    assert got == REPLY[:1]
    assert peer.wire.unsent == len(REPLY) - 1
    await peer.wire.flush_until(asyncio.get_running_loop().time() + 5)
    assert peer.wire.unsent == 0
    assert got + peer.got() == REPLY


async def test_a_whole_message_waits_behind_one_that_is_split(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("split-reply", where="STOP"))
    peers.append(peer)
    peer.wire.start(peer.owner)
    peer.wire.write(EVENT + REPLY)
    got = peer.got()
    assert got == EVENT[:1]
    async with asyncio.timeout(10):
        await peer.owner.has_drained.wait()
    assert got + peer.got() == EVENT + REPLY
    assert peer.wire.unsent == 0


async def test_the_count_of_split_messages(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("split-reply", times=1))
    peers.append(peer)
    peer.wire.start(peer.owner)
    peer.wire.write(REPLY)
    await peer.wire.flush_until(asyncio.get_running_loop().time() + 5)
    assert peer.got() == REPLY
    peer.wire.write(REPLY)
    assert peer.got() == REPLY


async def test_nothing_is_read_before_a_late_start(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("late-start", seconds=0.1))
    peers.append(peer)
    peer.wire.start(peer.owner)
    peer.socket.send(b"{}")
    peer.wire.pause()
    peer.wire.resume()
    for _ in range(3):
        await asyncio.sleep(0)
    peer.wire.write(REPLY)
    assert (peer.owner.received, peer.got()) == (b"", b"")
    async with asyncio.timeout(10):
        await peer.owner.has_received.wait()
    assert (peer.owner.received, peer.got()) == (b"{}", REPLY)


async def test_a_closed_wire_tells_its_owner_nothing_more(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("late-reply", seconds=0))
    peers.append(peer)
    peer.wire.start(peer.owner)
    peer.wire.write(REPLY)
    peer.wire.close()
    await asyncio.sleep(0.01)
    assert not peer.owner.has_drained.is_set()
    assert peer.got() == b""


async def test_the_reply_to_a_large_request(peers: list[Peer]) -> None:
    peer = Peer(faults.Spec("not-json", where="query-name"))
    peers.append(peer)
    peer.wire.start(peer.owner)
    long = "x" * 10_000
    peer.wire.data_received(json.dumps({"execute": "stop", "id": [long]}).encode())
    peer.wire.data_received(b'{"execute": "query-name"}')
    first = b'{"return": {}, "id": ["%b"]}\r\n' % long.encode()
    peer.wire.write(first[:20])
    peer.wire.write(first[20:] + REPLY)
    assert peer.got() == first + b"warning: this line is no JSON\r\n" + REPLY


@pytest.mark.parametrize("fault", ["split-reply", "late-reply:query-name", "event-before-reply"])
async def test_a_client_that_sends_no_more_gets_all_replies(serve: Serve, fault: str) -> None:
    async with serve({"fault": [{"name": fault, "seconds": 0.05}]}) as served:
        client: Raw = await served.connect()
        client.send("qmp_capabilities")
        client.send("query-name", id=7)
        client.writer.write_eof()
        async with asyncio.timeout(10):
            lines = (await client.reader.read()).splitlines()
        assert json.loads(lines[-1]) == {"return": {}, "id": 7}
