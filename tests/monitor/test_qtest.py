"""The lines of QEMU's test protocol, and their way through a device."""

import asyncio
import io
import re
import socket

import pytest

from qmpserver.monitor.channel import Channel
from qmpserver.monitor.qtest import Qtest
from tests.conftest import PATIENCE

SIZE = 4096


class Bytes:
    """A few pages at address 0."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.bytes[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        if address + len(data) <= SIZE:
            self.bytes[address : address + len(data)] = data


CONVERSATION = [
    ("endianness", "OK little"),
    ("writel 0x10 0x12345678", "OK"),
    ("readl 0x10", "OK 0x0000000012345678"),
    ("readb 0x10", "OK 0x0000000000000078"),
    ("readw 18", "OK 0x0000000000001234"),
    ("readq 020", "OK 0x0000000012345678"),
    ("writeb 0x10 -1", "OK"),
    ("read 0x10 4", "OK 0xff563412"),
    ("b64read 0x10 4", "OK /1Y0Eg=="),
    ("write 0x100 3 0xaabbcc", "OK"),
    ("read 0x0fe 6", "OK 0x0000aabbcc00"),
    ("b64write 0x100 2 AQI=", "OK"),
    ("read 0x100 3", "OK 0x0102cc"),
    ("memset 0x200 2 0x155", "OK"),
    ("readl 0x200", "OK 0x0000000000005555"),
    ("readq 0xfffffffffffffff8", "OK 0x0000000000000000"),
    ("inb 0x60", "OK 0x00ff"),
    ("inl 0xcf8", "OK 0xffffffff"),
    ("outw 0xcf8 1", "OK"),
    ("clock_step 100", "OK 100"),
    ("clock_step", "OK 100"),
    ("clock_set 50", "OK 100"),
    ("clock_set 500", "OK 500"),
    ("irq_intercept_in ioapic", "FAIL Unknown device"),
    ("nonsense 1", "FAIL Unknown command 'nonsense'"),
    ("", "FAIL Unknown command ''"),
    ("readb", "FAIL Expected 1 arguments to 'readb', not 0"),
    ("readb x", "FAIL Expected a number, not 'x'"),
    ("readb 0x1ffffffffffffffff", "FAIL Expected 64 bits, not '0x1ffffffffffffffff'"),
    ("read 0 0x7fffffffffff", "FAIL Expected 1 to 2097152 bytes, not '0x7fffffffffff'"),
    ("write 0 2 0xzz", "FAIL Expected hexadecimal digits, two a byte"),
    ("b64write 0 2 *", "FAIL Expected base64"),
    ("inq 0", "FAIL Unknown command 'inq'"),
]


def test_a_conversation() -> None:
    log = io.StringIO()
    qtest = Qtest(Bytes(), log)
    assert [(line, qtest.execute(line)) for line, _ in CONVERSATION] == CONVERSATION
    noted = [re.sub(r" \+\d+\.\d{6}\]", "]", line) for line in log.getvalue().splitlines()]
    assert noted[:4] == ["[R] endianness", "[S] OK little", "[R] " + CONVERSATION[1][0], "[S] OK"]
    assert len(noted) == 2 * len(CONVERSATION)


def test_without_memory_all_is_zero() -> None:
    qtest = Qtest()
    assert qtest.execute("writeb 0 1") == "OK"
    assert qtest.execute("read 0 4") == "OK 0x00000000"


async def test_a_client_gets_its_answers_in_order_however_it_reads() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    Qtest(Bytes()).attach(Channel(asyncio.get_running_loop(), ours))
    reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=8 << 20)
    # Answers of 200 MB, which nobody reads yet: they are not made.
    writer.write(b"read 0 0x100000\r\n" * 100 + b"endian")
    await writer.drain()
    writer.write(b"ness\n")
    async with asyncio.timeout(PATIENCE):
        for _ in range(100):
            assert len(await reader.readline()) == len("OK 0x\n") + (2 << 20)
        assert await reader.readline() == b"OK little\n"
        writer.write_eof()
        assert await reader.read() == b""
    writer.close()


async def test_a_line_that_never_ends_ends_the_connection() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    Qtest().attach(Channel(asyncio.get_running_loop(), ours))
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                writer.write(bytes(1 << 20))
                await writer.drain()
        except ConnectionError:
            pass
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
    writer.close()
