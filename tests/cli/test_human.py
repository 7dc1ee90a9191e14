"""The human monitor of the whole program, on sockets and a terminal, and its robustness."""

import asyncio
import os
import pty
import random
import signal
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qemu.qmp import ExecuteError

from tests.cli.conftest import answer, execute

if TYPE_CHECKING:
    from tests.cli.conftest import Program, Start
    from tests.conftest import Until

PATIENCE = 20.0
PROMPT = b"(qemu) "
SOFT = ["-accel", "soft,dirty-ring-size=4096", "-smp", "2", "-m", "64M"]


class HumanClient:
    """A client of a human monitor on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def prompt(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(PROMPT)

    async def enter(self, line: str) -> str:
        """Enter a line; return the output."""
        self.writer.write(f"{line}\n".encode())
        shown = (await self.prompt()).partition(b"\r\n")[2]
        return shown.removesuffix(PROMPT).decode()


ConnectHuman = Callable[[], Awaitable[HumanClient]]


@pytest_asyncio.fixture
async def connect_human(tmp_path: Path) -> AsyncIterator[ConnectHuman]:
    """Connect to the human monitor; remaining clients are disconnected after the test."""
    human_clients: list[HumanClient] = []

    async def connect_human() -> HumanClient:
        async with asyncio.timeout(PATIENCE):
            connection = asyncio.open_unix_connection(tmp_path / "hmp", limit=1 << 26)
            human_client = HumanClient(*await connection)
        human_clients.append(human_client)
        await human_client.prompt()
        return human_client

    yield connect_human
    for human_client in human_clients:
        human_client.writer.transport.abort()


@pytest.fixture
def human(tmp_path: Path) -> list[str]:
    """The options of a human monitor."""
    device = f"socket,id=hmp,path={tmp_path}/hmp,server=on,wait=off,max-clients=9"
    return ["-chardev", device, "-mon", "chardev=hmp"]


@pytest.mark.slow
async def test_a_limit_by_hand(
    start: "Start", machine: list[str], human: list[str], connect_human: ConnectHuman
) -> None:
    async with start(*machine, *human) as program:
        human_client = await connect_human()
        assert await human_client.enter("info status") == "VM status: running\r\n"
        assert await human_client.enter("set_vcpu_dirty_limit 40+2 1") == ""
        client = await program.connect()
        [limit] = await execute(client, "query-vcpu-dirty-limit")
        assert (limit["cpu-index"], limit["limit-rate"]) == (1, 42)
        shown = await human_client.enter("info vcpu_dirty_limit")
        assert shown.startswith("vcpu[1], limit rate 42 (MB/s), current rate ")
        ring = "__org.qmpserver_query-dirty-ring"
        await answer(client, ring, lambda got: got["tracking"])
        shown = await human_client.enter("info dirty_ring")
        assert shown.startswith("tracking: on, limit in service: on\r\nreaper: mode event, ")
        assert shown.count("vcpu[") == 2
        assert "Please use" in await human_client.enter("cancel_vcpu_dirty_limit")
        assert (
            await human_client.enter("info vcpu_dirty_limit") == "Dirty page limit not enabled!\r\n"
        )
        assert await human_client.enter("stop") == ""
        assert (await execute(client, "query-status"))["status"] == "paused"
        assert await human_client.enter("info history") == "".join(
            f"{index}: '{line}'\r\n"
            for index, line in enumerate(
                [
                    "info status",
                    "set_vcpu_dirty_limit 40+2 1",
                    "info dirty_ring",
                    "cancel_vcpu_dirty_limit",
                    "info vcpu_dirty_limit",
                    "stop",
                    "info history",
                ]
            )
        )
        await client.disconnect()
        human_client.writer.write(b"q\nfoo\n")
        async with asyncio.timeout(PATIENCE):
            assert await human_client.reader.read() == b"q\x1b[K\r\n"
        assert await program.wait() == 0


@pytest.mark.slow
async def test_chosen_cpu_stays(
    start: "Start", human: list[str], connect_human: ConnectHuman
) -> None:
    async with start(*SOFT, *human) as program:
        human_client = await connect_human()
        assert (await human_client.enter("info cpus")).startswith("* CPU #0: thread_id=")
        assert await human_client.enter("cpu 1") == ""
        assert (await human_client.enter("info cpus")).partition("\r\n")[2].startswith("* CPU #1:")
        assert await human_client.enter("cpu 2") == "invalid CPU index\r\n"
        client = await program.connect()
        shown = await execute(client, "human-monitor-command", command_line="info cpus")
        assert shown.startswith("* CPU #0:")
        await client.disconnect()


@pytest.mark.slow
async def test_a_line_that_would_hold_up_others(start: "Start") -> None:
    async with start(*SOFT) as program:
        client = await program.connect()
        long = "x" * 65536
        shown = await execute(client, "human-monitor-command", command_line=long)
        assert shown == f"unknown command: '{long}'\r\n"
        with pytest.raises(ExecuteError, match="'command-line' expects at most 65536 characters"):
            await execute(client, "human-monitor-command", command_line=f"{long}x")
        await client.disconnect()


@pytest.mark.slow
async def test_going_away_while_a_command_runs(
    start: "Start", human: list[str], connect_human: ConnectHuman
) -> None:
    async with start(*SOFT, *human) as program:
        client = await program.connect()
        for _ in range(20):
            human_client = await connect_human()
            # `stop` waits for the vCPUs; its client is gone before it ends.
            human_client.writer.write(b"stop\ncont\n")
            human_client.writer.transport.abort()
        human_client = await connect_human()
        assert "VM status" in await human_client.enter("info status")
        await human_client.enter("cont")
        await answer(client, "query-status", lambda got: got["running"])
        await client.disconnect()


@pytest.mark.slow
async def test_junk(start: "Start", human: list[str], connect_human: ConnectHuman) -> None:
    rng = random.Random(1)
    pieces = [b"\t", b"\x1b[A", b"\n", b"info ", b"set_vcpu_dirty_limit ", b"(" * 99, b'"']
    async with start(*SOFT, *human) as program:
        for _ in range(5):
            human_client = await connect_human()
            junk = b"".join(rng.choice([*pieces, rng.randbytes(9)]) for _ in range(2000))
            reading = asyncio.ensure_future(human_client.reader.read())
            human_client.writer.write(junk)
            human_client.writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                assert PROMPT in await reading
            human_client = await connect_human()
        shown = await human_client.enter("\u00e9" + "x" * 9000)
        assert shown == f"unknown command: '\u00e9{'x' * 4093}'\r\n"
        human_client.writer.write(b"\xff\n")
        assert (await human_client.prompt()).endswith(b"unknown command: '\xff'\r\n(qemu) ")
        assert program.process.returncode is None


@pytest.mark.slow
async def test_a_client_that_never_reads_costs_little_memory(
    start: "Start", human: list[str], connect_human: ConnectHuman
) -> None:
    async with start(*SOFT, *human) as program:
        client = await program.connect()
        flooding = await connect_human()
        flooding.reader._transport.pause_reading()  # type: ignore[attr-defined]
        # Each cursor key up redraws 4,000 letters.
        flood = b"x" * 4000 + b"\n" + b"\x1b[A\x1b[B" * 100_000 + b"help\n" * 10_000
        flooding.writer.write(flood)
        before = resident(program)
        for _ in range(200):
            async with asyncio.timeout(1):
                assert (await execute(client, "query-status"))["running"]
        other = await connect_human()
        assert await other.enter("info status") == "VM status: running\r\n"
        assert resident(program) - before < 16 << 20
        await client.disconnect()


def resident(program: "Program") -> int:
    """Return the bytes of private memory; guest memory is shared memory."""
    for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon in /proc")


class Terminal:
    """The program's terminal."""

    def __init__(self) -> None:
        self.outside, self.inside = pty.openpty()
        self.before = termios.tcgetattr(self.inside)

    async def until(self, wanted: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        shown = b""
        async with asyncio.timeout(PATIENCE):
            while wanted not in shown:  # an error message may follow at once
                ready = loop.create_future()
                loop.add_reader(self.outside, ready.set_result, None)
                try:
                    await ready
                finally:
                    loop.remove_reader(self.outside)
                shown += os.read(self.outside, 65536)
        return shown

    def close(self) -> None:
        os.close(self.outside)
        os.close(self.inside)


@pytest.mark.parametrize("end", ["quit", "SIGTERM", "SIGINT", "error"])
async def test_terminal_is_restored(end: str, until: "Until") -> None:
    terminal = Terminal()
    options = [*SOFT, "-S", "-chardev", "stdio,id=hmp", "-mon", "chardev=hmp"]
    if end == "error":
        options += ["-mon", "chardev=nobody"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpserver.cli", *options),
        stdin=terminal.inside,
        stdout=terminal.inside,
        stderr=terminal.inside,
    )
    try:
        await terminal.until(PROMPT)
        if end != "error":
            os.write(terminal.outside, b"set_v\t7\r")
            shown = (await terminal.until(PROMPT)).replace(b"\r\r\n", b"\r\n")
            # Each key is shown once: by the program, not by the terminal.
            assert shown.startswith(b"s\x1b[K\x1b[Dse\x1b[K")
            assert b"set_vcpu_dirty_limit 7\x1b[K\r\n" in shown
            local = termios.tcgetattr(terminal.inside)[3]
            assert not local & (termios.ECHO | termios.ICANON)
            assert local & termios.ISIG
            # After being suspended, the terminal is set up again.
            termios.tcsetattr(terminal.inside, termios.TCSANOW, terminal.before)
            process.send_signal(signal.SIGCONT)
            until(lambda: not termios.tcgetattr(terminal.inside)[3] & termios.ICANON)
        if end == "quit":
            os.write(terminal.outside, b"quit\r")
        elif end != "error":
            process.send_signal(signal.Signals[end])
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == (end == "error")
        assert termios.tcgetattr(terminal.inside) == terminal.before
        assert os.get_blocking(terminal.inside)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
