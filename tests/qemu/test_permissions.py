"""Users of one block node exclude each other in a stand-in as in QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Session, hold
from tests.qemu.test_block import IMAGES, OVERLAY, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

Command = tuple[str, dict[str, Any]]
N = "-machine pc -device virtio-scsi-pci,id=s -blockdev null-co,node-name=n "
WITH_DISK = f"{N}-device virtio-blk-pci,drive=n,id=a "
SERVER = {"addr": {"type": "unix", "data": {"path": "nbd.sock"}}}


def plug(name: str, drive: str, driver: str = "virtio-blk-pci", **more: bool) -> Command:
    properties = {key.replace("_", "-"): value for key, value in more.items()}
    return "device_add", {"driver": driver, "drive": drive, "id": name, **properties}


def add(name: str, driver: str = "raw", **more: Any) -> Command:
    return "blockdev-add", {"driver": driver, "node-name": name, **more}


def export(name: str, node: str, *, writable: bool = True) -> Command:
    given = {"type": "nbd", "id": name, "node-name": node, "name": name, "writable": writable}
    return "block-export-add", given


def reopen(*nodes: str, read_only: bool) -> Command:
    options = [{"driver": "null-co", "node-name": one, "read-only": read_only} for one in nodes]
    return "blockdev-reopen", {"options": options}


SESSIONS = {
    "two devices": Session(
        WITH_DISK,
        (
            plug("b", "n"),
            plug("b", "n", "scsi-hd"),
            plug("b", "n", "scsi-cd"),
            plug("b", "n", share_rw=True),
            ("device_del", {"id": "nope"}),
        ),
    ),
    "shared": Session(
        f"{N}-device virtio-blk-pci,drive=n,share-rw=on,id=a",
        (
            plug("b", "n", share_rw=True),
            plug("c", "n"),
            ("nbd-server-start", SERVER),
            export("e", "n"),
            export("f", "n"),
        ),
    ),
    "read-only": Session(
        f"{N} -blockdev null-co,node-name=r,read-only=on -blockdev raw,node-name=above,file=r",
        (
            plug("a", "r"),
            plug("b", "r", "scsi-hd"),
            plug("c", "r", "scsi-cd"),
            plug("d", "r", "ide-hd"),
            plug("e", "above"),
            ("nbd-server-start", SERVER),
            export("e", "r"),
            export("e", "r", writable=False),
        ),
    ),
    "exports": Session(
        N,
        (
            ("nbd-server-start", SERVER),
            export("e", "n"),
            plug("a", "n"),
            ("block-export-del", {"id": "e"}),
            export("e", "n", writable=False),
            plug("a", "n"),
            export("f", "n"),
            ("nbd-server-add", {"device": "n", "name": "g", "writable": True}),
        ),
    ),
    "above": Session(
        f"{N}-blockdev raw,node-name=r,file=n",
        (
            plug("a", "n"),
            plug("b", "r"),
            add("q", file="n"),
            plug("b", "q"),
            plug("b", "q", share_rw=True),
            plug("b", "q", "scsi-cd"),
        ),
    ),
    "format": Session(
        "-machine pc -blockdev file,node-name=f,filename=disk.qcow2 "
        "-blockdev qcow2,node-name=q,file=f",
        (
            add("p", "qcow2", file="f"),
            add("r", file="f"),
            add("s", file="q"),
            plug("a", "f"),
            plug("a", "f", share_rw=True),
            plug("a", "r"),
            plug("a", "q"),
            plug("b", "s"),
        ),
    ),
    "backing file": Session(
        WITH_DISK,
        (
            ("blockdev-add", {**OVERLAY, "backing": "n"}),
            plug("b", "o"),
            plug("b", "o", share_rw=True),
        ),
    ),
    "of overlay": Session(
        f"{N}-blockdev qcow2,node-name=q,file.driver=file,file.filename=disk.qcow2,backing=n "
        "-device virtio-blk-pci,drive=q,id=a",
        (plug("b", "n"), plug("b", "n", share_rw=True)),
    ),
    "drive": Session(
        "-machine pc -drive if=none,id=d,file=null-co://,node-name=n,format=raw",
        (plug("a", "n"), plug("b", "d"), ("device_del", {"id": "nope"}), plug("b", "d")),
    ),
    "reopened": Session(
        f"{WITH_DISK}-blockdev null-co,node-name=r,read-only=on "
        "-device virtio-blk-pci,drive=r,id=b -blockdev null-co,node-name=unused",
        (
            reopen("n", read_only=True),
            reopen("unused", "n", read_only=True),
            reopen("nope", read_only=True),
            ("blockdev-reopen", {"options": [{"driver": "null-co"}]}),
            reopen("r", read_only=False),
            plug("c", "unused"),
            ("query-block", {}),
        ),
    ),
    "mirror": Session(
        f"{WITH_DISK}-blockdev null-co,node-name=m -device virtio-blk-pci,drive=m,id=b",
        (("blockdev-mirror", {"device": "n", "target": "m", "sync": "full", "job-id": "j"}),),
    ),
}
REFUSED = """
-device virtio-blk-pci,drive=n -device virtio-blk-pci,drive=n
-device ide-hd,drive=n -device floppy,drive=n
-device nvme,drive=n,serial=x -device nvme,drive=n,serial=y
""".strip().splitlines()


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    assert_same(SESSIONS[name], release, release_qemu, tmp_path)


@pytest.mark.parametrize("options", REFUSED)
def test_refused(options: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    assert_same(Session(N + options), release, release_qemu, tmp_path)


def assert_same(session: Session, release: Release, qemu: str, directory: Path) -> None:
    """Have a session with the stand-in as a release, and with its QEMU, and compare them."""
    prepare(directory)
    link = link_to_stand_in(release.name, directory, IMAGES)
    assert hold(link, session, directory) == hold(qemu, session, directory)
