"""A stand-in's backends and devices of memory, and what uses them, are as QEMU's."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.qemu.steps import Look, Step, assert_same, connects

Session = tuple[list[str], list[Step]]


def add(name: str, kind: str, /, **data: Any) -> Step:
    return "chardev-add", {"id": name, "backend": {"type": kind, "data": data}}


def change(name: str, kind: str, /, **data: Any) -> Step:
    return "chardev-change", {"id": name, "backend": {"type": kind, "data": data}}


def remove(name: str) -> Step:
    return "chardev-remove", {"id": name}


def at(path: str) -> dict[str, Any]:
    return {"type": "unix", "data": {"path": path}}


def fd(name: str) -> dict[str, Any]:
    return {"type": "fd", "data": {"str": name}}


def write(device: str, data: str, **more: str) -> Step:
    return "ringbuf-write", {"device": device, "data": data, **more}


def read(device: str, size: int, **more: str) -> Step:
    return "ringbuf-read", {"device": device, "size": size, **more}


FILES = Look(
    lambda directory: sorted((one.name, one.stat().st_size) for one in directory.iterdir())
)

OPEN = [
    "-chardev", "null,id=c0", "-chardev", "ringbuf,id=r0,size=16",
    "-chardev", "file,id=f0,path=f0.out",
    "-chardev", "socket,id=s0,path=s0.sock,server=on,wait=off",
]  # fmt: skip
CHARDEVS: Session = (
    OPEN,
    [
        "query-chardev",
        add("s1", "socket", addr=at("s1.sock"), server=True, wait=False),
        add("f1", "file", out="f1.out"),
        FILES,
        "query-chardev",
        connects("s0.sock"),
        connects("s1.sock"),
        remove("s1"),
        FILES,
        add("s2", "socket", addr=at("/nope/s.sock"), server=True, wait=False),
        add("s3", "socket", addr=at("s.sock"), server=False, wait=False),
        add("s4", "socket", addr=fd("nope"), server=True, wait=False),
        add("s4", "socket", addr=fd("nope"), server=False),
        add("f2", "file", out="/nope/f"),
        add("m1", "mux", chardev="nope"),
        add("m2", "mux", chardev="c0"),
        add("m4", "mux", chardev="m2"),
        add("r1", "ringbuf", size=100),
        add("r2", "ringbuf", size=64),
        add("r3", "ringbuf"),
        add("r2", "ringbuf", size=64),
        change("f0", "null"),
        change("c0", "null"),
        change("s0", "null"),
        change("nope", "null"),
        remove("c0"),
        remove("s0"),
        remove("nope"),
        FILES,
        ("chardev-send-break", {"id": "nope"}),
        "query-chardev",
    ],
)
RINGS: Session = (
    OPEN,
    [
        write("r0", "hello"),
        read("r0", 3),
        read("r0", 30),
        read("r0", 30),
        write("r0", "0123456789abcdefXYZ"),
        read("r0", 300),
        write("r0", "aGVsbG8=", format="base64"),
        read("r0", 300, format="base64"),
        write("r0", "!!", format="base64"),
        write("r0", "YWI", format="base64"),
        read("r0", 300),
        write("c0", "x"),
        read("c0", 3),
        write("nope", "x"),
        read("nope", 3),
        read("r0", 0),
    ],
)


@pytest.mark.slow
@pytest.mark.parametrize("session", [CHARDEVS, RINGS], ids=["chardevs", "rings"])
def test_backends(release: Release, release_qemu: str, tmp_path: Path, session: Session) -> None:
    assert_same(release, release_qemu, tmp_path, *session)
