"""QEMU's test protocol and the serial port of the whole program, as QEMU's tests start it."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE
from tests.vm.machine.test_bootsector import SENDS, sector

STARTED = "-display none -audio none"


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return sector(tmp_path / "disk", SENDS)


async def exchange(
    directory: Path, options: str, lines: list[str]
) -> tuple[list[str], asyncio.subprocess.Process]:
    """Start the program as QEMU's tests do, send lines, and return the answers."""
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    accepted = asyncio.get_running_loop().create_future()
    path = directory / "qtest"
    listening = await asyncio.start_unix_server(lambda *pair: accepted.set_result(pair), path)
    words = f"-qtest unix:{path} -qtest-log {directory}/log {STARTED} {options}".split()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qmpserver.cli", *words)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await accepted
        answers = []
        for line in lines:
            writer.write(line.encode() + b"\n")
            answers.append((await reader.readline()).decode().rstrip())
    listening.close()
    writer.close()
    return answers, process


@pytest.mark.parametrize("kind", ["-fake default", "-accel tcg -accel qtest"])
async def test_endianness_and_memory(tmp_path: Path, kind: str) -> None:
    lines = ["endianness", "writel 0x1000 0x01020304", "readl 0x1000"]
    answers, process = await exchange(tmp_path, f"{kind} -machine none", lines)
    memory = 0 if "fake" in kind else 0x01020304
    assert answers == ["OK little", "OK", f"OK 0x{memory:016x}"]
    process.terminate()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0
    log = re.sub(r" \+[\d.]+\]", "]", (tmp_path / "log").read_text()).splitlines()
    assert log[:4] == ["[R] endianness", "[S] OK little", f"[R] {lines[1]}", "[S] OK"]


async def test_a_boot_sector_writes_to_a_file(kvm: None, tmp_path: Path, disk: str) -> None:
    serial = tmp_path / "serial"
    os.mkfifo(serial)
    reading = os.open(serial, os.O_RDONLY | os.O_NONBLOCK)
    options = (
        f"-accel kvm,dirty-ring-size=1024 -accel tcg -machine q35 -m 150M -serial file:{serial} "
        f"-drive if=none,id=d0,file={disk},format=raw -device ide-hd,drive=d0,secs=1 -accel qtest"
    )
    answers, process = await exchange(tmp_path, options, ["read 0x7c00 3"])
    assert answers == ["OK 0xbaf803"]
    seen = b""
    async with asyncio.timeout(PATIENCE):
        arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(reading, arrived.set)
        while len(seen) < 6:
            await arrived.wait()
            arrived.clear()
            seen += os.read(reading, 6)
        asyncio.get_running_loop().remove_reader(reading)
        process.terminate()
        await process.wait()
    os.close(reading)
    assert seen.startswith(b"boot..")


async def test_a_first_command_finds_the_machine_as_described(tmp_path: Path) -> None:
    """The program connects to its clients, each of which speaks at once."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"execute": "qmp_capabilities"}{"execute": "query-status"}')
        for _ in range(2):
            await reader.readline()
        await answers.put(await reader.readline())
        writer.close()

    options = ["-accel", "soft", "-incoming", "defer"]
    listening = []
    for name in ("a", "b", "c"):
        listening.append(await asyncio.start_unix_server(ask, tmp_path / name))
        options += ["-qmp", f"unix:{tmp_path / name}"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qmpserver.cli", *options)
    async with asyncio.timeout(PATIENCE):
        for _ in listening:
            assert b'"status": "inmigrate"' in await answers.get()
        process.terminate()
        await process.wait()
    for one in listening:
        one.close()
