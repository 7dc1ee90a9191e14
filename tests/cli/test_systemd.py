"""The systemd units: valid, as restricted as they state, and sufficient for the program."""

import asyncio
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from qemu.qmp import QMPClient

from qmpserver.cli.commandline import parse_command_line
from tests.cli.conftest import PATIENCE, execute, hang_up
from tests.cli.test_process import activated
from tests.conftest import Until, listens

UNITS = Path(__file__).parents[2] / "examples" / "systemd"
SERVICE = (UNITS / "qmpserver.service").read_text()
INSTALLED = "/usr/local/bin/qmpserver"


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def analyze(*arguments: str, cwd: Path = UNITS) -> str:
    needs("systemd-analyze")
    ran = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def command() -> list[str]:
    started = re.search(r"^ExecStart=(.*)", SERVICE, re.MULTILINE)
    assert started is not None
    return shlex.split(started[1])


def test_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace(INSTALLED, sys.executable)
        (tmp_path / unit.name).write_text(text)
    assert not analyze("verify", "./qmpserver.service", "./qmpserver.socket", cwd=tmp_path)


def test_exposure_is_as_stated() -> None:
    shown = analyze("security", "--offline=yes", "./qmpserver.service")
    stated = re.search(r"\(systemd (\d+)\): overall exposure level ([\d.]+ \w+)\.", SERVICE)
    found = re.search(r"Overall exposure level for qmpserver.service: (([\d.]+) \w+)", shown)
    assert stated is not None
    assert found is not None
    if analyze("--version").startswith(f"systemd {stated[1]} "):  # other versions weigh differently
        assert found[1] == stated[2]
    assert float(found[2]) < 1.5


@pytest.mark.slow
async def test_the_command_of_the_unit_serves_a_client(tmp_path: Path) -> None:
    program, *options = command()
    assert program == INSTALLED
    assert parse_command_line(options).chardevs == []
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = await asyncio.create_subprocess_exec(
            *activated(listener), *options, pass_fds=[listener.fileno()]
        )
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE):
        await client.connect(str(path))
        assert len(await execute(client, "query-cpus-fast")) == 2
        await client.execute("set-vcpu-dirty-limit", {"dirty-rate": 10})
        await client.execute("quit")
        assert await process.wait() == 0
    await hang_up(client)


def allowed(name: str) -> set[str]:
    calls: set[str] = set()
    for line in analyze("syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            calls |= allowed(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


@pytest.mark.slow
async def test_unit_allows_every_system_call_of_the_program(
    accel: str, tmp_path: Path, until: Until
) -> None:
    needs("strace")
    filters = re.findall(r"^SystemCallFilter=(\S+)", SERVICE, re.MULTILINE)
    calls: set[str] = set()
    for one in filters:
        if one.startswith("~"):
            calls -= allowed(one.removeprefix("~"))
        else:
            calls |= allowed(one)
    path, log = tmp_path / "s", tmp_path / "strace"
    process = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-e", "signal=none", "-o", str(log)),
        *(sys.executable, "-m", "qmpserver.cli", "-accel", f"{accel},dirty-ring-size=4096"),
        *("-m", "64M", "-qmp", f"unix:{path},server=on,wait=off"),
    )
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE):
        await asyncio.to_thread(until, lambda: listens(path))
        await client.connect(str(path))
        await client.execute("set-vcpu-dirty-limit", {"dirty-rate": 10})
        await client.execute("query-vcpu-dirty-limit")
        await client.execute("cancel-vcpu-dirty-limit")
        await client.execute("system_reset")
        await client.execute("quit")
        assert await process.wait() == 0
    await hang_up(client)
    made = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    assert "ioctl" in made or accel == "soft"
    assert made - calls == set()
