"""Objects of `-object`, and the machine's RAM among them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PATIENCE, Start, execute, hang_up

SETS = 2 << 20  # where the guest stores
RAM = "memory-backend-ram,id=m,size=64M"


def run(*options: str, commands: tuple[dict[str, Any], ...] = ()) -> tuple[list[Any], str]:
    """Return the replies to commands, and what the program says on standard error."""
    asked = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
    ran = subprocess.run(
        [sys.executable, "-m", "qmpserver.cli", "-accel", "qtest", *options, "-qmp", "stdio"],
        input="".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    replies = [json.loads(line).get("return") for line in ran.stdout.splitlines()]
    return replies[2:-2], ran.stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nope,id=x", "Parameter 'qom-type' does not accept value 'nope'"),
        ("id=x", "Parameter 'qom-type' is missing"),
        ("memory-backend-ram,size=1M", "Parameter 'id' is missing"),
        ("memory-backend-ram,id=m", "Parameter 'size' is missing"),
        ("memory-backend-ram,id=m,size=64M,x=1", "Invalid parameter 'x'"),
        ("memory-backend-ram,id=m,size=x", "Parameter 'size' expects a size value"),
        ("memory-backend-file,id=m,size=64M", "Parameter 'mem-path' is missing"),
        ("secret,id=s,data=x,format=foo", "Parameter 'format' does not accept value 'foo'"),
        (r'{"qom-type":"secret","id":"s","file":"a\u0000b"}', "embedded null byte"),
        (
            '{"qom-type":"memory-backend-ram","id":"m","size":"64M","share":1}',
            "Invalid parameter type for 'share', expected: boolean",
        ),
    ],
)
def test_a_value_is_refused_as_by_qemu(value: str, words: str) -> None:
    assert run("-object", value)[1] == f"qmpserver: -object {value}: {words}\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-object", "secret,id=s"], "Either 'file' or 'data' must be provided"),
        (
            ["-object", "secret,id=s,data=x,file=/dev/null"],
            "'file' and 'data' are mutually exclusive",
        ),
        (
            ["-object", "memory-backend-ram,id=m,size=0"],
            "property 'size' of memory-backend-ram doesn't take value '0'",
        ),
        (["-machine", "pc,memory-backend=none"], "Memory backend 'none' not found"),
        (
            ["-machine", "pc,memory-backend=m", "-m", "128", "-object", RAM],
            "Machine memory size does not match the size of the memory backend",
        ),
        (
            ["-object", RAM],
            "memory backend 'm' is not the machine's RAM\nUse -machine memory-backend=m",
        ),
    ],
)
def test_objects_that_do_not_fit(options: list[str], words: str) -> None:
    assert run(*options)[1] == f"qmpserver: {words}\n"


def test_an_id_is_there_once() -> None:
    said = run("-machine", "pc,memory-backend=m", "-object", RAM, "-object", RAM)[1]
    assert said == f"qmpserver: -object {RAM}: Duplicate ID 'm' for object\n"


def test_objects_are_in_the_tree() -> None:
    secret = '{"qom-type":"secret","id":"s","data":"hidden"}'
    (tree, ram, size, secrets, memory), said = run(
        *["-machine", "pc,memory-backend=m", "-object", RAM, "-object", secret],
        commands=(
            {"execute": "qom-list", "arguments": {"path": "/objects"}},
            {"execute": "qom-list", "arguments": {"path": "/objects/m"}},
            {"execute": "qom-get", "arguments": {"path": "/objects/m", "property": "size"}},
            {"execute": "qom-list", "arguments": {"path": "/objects/s"}},
            {"execute": "query-memory-size-summary"},
        ),
    )
    assert said == ""
    assert [one["type"] for one in tree[1:]] == ["child<memory-backend-ram>", "child<secret>"]
    assert [one["name"] for one in ram] == ["type", "size"]
    assert size == memory["base-memory"] == 64 << 20
    assert [one["name"] for one in secrets] == ["type"]


async def test_ram_in_a_file(start: Start, tmp_path: Path, accel: str) -> None:
    """Another process sees what the guest stores."""
    path = tmp_path / "ram"
    backend = f"memory-backend-file,id=m,size=32M,mem-path={path},share=on"
    options = ["-accel", accel, "-machine", "pc,memory-backend=m", "-object", backend]
    async with start(*options, "-guest", "dirty,size=4M") as program:
        client = await program.connect()
        assert path.stat().st_size == 32 << 20
        assert path.stat().st_mode & 0o077 == 0
        await execute(client, "stop")
        stored = path.read_bytes()[SETS:].count(0) < (32 << 20) - SETS
        assert stored
        await execute(client, "quit")
        await hang_up(client)


@pytest.mark.parametrize(
    ("path", "size", "words"),
    [
        ("ram", 4096, "backing store size 0x1000 does not match 'size' option 0x4000000"),
        ("none/ram", 0, "[Errno 2] No such file or directory: 'none/ram'"),
    ],
)
def test_a_file_that_cannot_be_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, size: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if size:
        with open(path, "wb") as file:
            os.truncate(file.fileno(), size)
    backend = f"memory-backend-file,id=m,size=64M,mem-path={path},share=on"
    said = run("-machine", "pc,memory-backend=m", "-object", backend)[1]
    assert said == f"qmpserver: cannot set up guest memory 'ram': {words}\n"
