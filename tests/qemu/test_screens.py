"""A stand-in dumps its screens as QEMU does."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Session, hold

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

DUMPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("screendump", {"filename": "default"}),
    ("screendump", {"filename": "ppm", "format": "ppm"}),
    ("screendump", {"filename": "png", "format": "png"}),
    ("screendump", {"filename": "x", "format": "gif"}),
    ("screendump", {"filename": "/nope/x"}),
    ("screendump", {"filename": "."}),
    ("screendump", {"filename": ""}),
    ("screendump", {"filename": "full"}),
    ("screendump", {"filename": "full.png", "format": "png"}),
    ("screendump", {"filename": "/dev/fdset/7"}),
    ("screendump", {"filename": "x", "head": 0}),
    *(
        ("screendump", {"filename": f"{name}{heads.get('head', '')}", "device": name, **heads})
        for name in ("v", "g", "n", "none", "/machine/peripheral/v")
        for heads in ({}, {"head": 0}, {"head": 1}, {"head": 2}, {"head": -1})
    ),
)
LINES = (
    "",
    "-vga none",
    "-vga std",
    "-machine none -vga std",
    "-machine q35 -vga cirrus",
    "-device VGA,id=v -device virtio-gpu-pci,id=g,max_outputs=2 -device e1000,id=n",
    "-device e1000,id=n",
    "-device bochs-display,id=v -device ramfb,id=g",
    "-device virtio-vga,id=v -device secondary-vga,id=g",
    "-device cirrus-vga,id=v -device vmware-svga,id=g -device isa-vga,id=n",
)


@pytest.mark.parametrize("line", LINES)
def test_dumps(line: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    results = []
    for who, program in (
        ("ours", link_to_stand_in(release.name, tmp_path)),
        ("theirs", release_qemu),
    ):
        directory = tmp_path / who
        directory.mkdir()
        for full in ("full", "full.png"):
            (directory / full).symlink_to("/dev/full")  # a file that cannot be written is removed
        messages = hold(program, Session(line, DUMPS), directory)
        pictures = {one.name: look(one) for one in directory.iterdir() if one.is_file()}
        results.append((messages, pictures))
    (ours, our_pictures), (theirs, their_pictures) = results
    assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []
    assert our_pictures == their_pictures


def look(path: Path) -> tuple[str, int, int, int]:
    """Return the format, the width, the height and the mode of a picture."""
    data = path.read_bytes()
    mode = path.stat().st_mode
    if data.startswith(b"P6\n"):
        width, height = map(int, data.split(maxsplit=3)[1:3])
        assert len(data) == len(b"P6\n%d %d\n255\n" % (width, height)) + 3 * width * height
        return "ppm", width, height, mode
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return "png", *struct.unpack(">II", data[16:24]), mode
