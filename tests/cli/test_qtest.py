"""QEMU's test protocol and the serial port of the whole program, as QEMU's tests start it."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.cli.conftest import PATIENCE
from tests.vm.machine.test_bootsector import SENDS, sector

STARTED = "-display none -audio none"


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return sector(tmp_path / "disk", SENDS)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[BinaryIO]:
    os.mkfifo(tmp_path / "serial")
    with open(tmp_path / "serial", "rb", opener=_without_waiting) as pipe:
        yield pipe


@contextlib.asynccontextmanager
async def running(options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the program; it is ended, whatever happens, and then its status is 0."""
    argv = [sys.executable, "-m", "qmpserver.cli", *options.split()]
    process = await asyncio.create_subprocess_exec(*argv)
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
            process.terminate()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def exchange(
    directory: Path, options: str, lines: list[str], then: Awaitable[object] | None = None
) -> list[str]:
    """Start the program as QEMU's tests do, send lines, and return the answers."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    accepted = asyncio.get_running_loop().create_future()
    path = directory / "qtest"
    listening = await asyncio.start_unix_server(lambda *pair: accepted.set_result(pair), path)
    async with running(f"-qtest unix:{path} -qtest-log {directory}/log {STARTED} {options}"):
        reader, writer = await accepted
        answers = []
        for line in lines:
            writer.write(line.encode() + b"\n")
            answers.append((await reader.readline()).decode().rstrip())
        if then is not None:
            await then
        writer.close()
    listening.close()
    return answers


@pytest.mark.parametrize("kind", ["-fake default", "-accel tcg -accel qtest"])
async def test_endianness_and_memory(tmp_path: Path, kind: str) -> None:
    lines = ["endianness", "writel 0x1000 0x01020304", "readl 0x1000"]
    answers = await exchange(tmp_path, f"{kind} -machine none", lines)
    memory = 0 if "fake" in kind else 0x01020304
    assert answers == ["OK little", "OK", f"OK 0x{memory:016x}"]
    log = re.sub(r" \+[\d.]+\]", "]", (tmp_path / "log").read_text()).splitlines()
    assert log[:4] == ["[R] endianness", "[S] OK little", f"[R] {lines[1]}", "[S] OK"]


async def test_a_boot_sector_writes_to_a_file(
    kvm: None, tmp_path: Path, disk: str, pipe: BinaryIO
) -> None:
    options = (
        f"-accel kvm,dirty-ring-size=1024 -accel tcg -machine q35 -m 150M -serial file:{pipe.name} "
        f"-drive if=none,id=d0,file={disk},format=raw -device ide-hd,drive=d0 -accel qtest"
    )
    arrived = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe, arrived.set)
    answers = await exchange(tmp_path, options, ["read 0x7c00 3"], arrived.wait())
    asyncio.get_running_loop().remove_reader(pipe)
    assert answers == ["OK 0xbaf803"]
    assert b"boot..".startswith(pipe.read(6))


async def test_a_first_command_finds_the_machine_as_described(tmp_path: Path) -> None:
    """The program connects to its clients, each of which speaks at once."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"execute": "qmp_capabilities"}{"execute": "query-status"}')
        for _ in range(2):
            await reader.readline()
        await answers.put(await reader.readline())
        writer.close()

    options = "-accel soft -incoming defer"
    listening = []
    for name in ("a", "b", "c"):
        listening.append(await asyncio.start_unix_server(ask, tmp_path / name))
        options += f" -qmp unix:{tmp_path / name}"
    async with running(options):
        for _ in listening:
            assert b'"status": "inmigrate"' in await answers.get()
    for one in listening:
        one.close()
