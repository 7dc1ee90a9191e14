"""A stand-in shows and changes block devices as QEMU does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.qemu.sessions import Session, hold, link_to_stand_in

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

QUERIES = (("query-block", {}), ("query-blockstats", {}), "info block")
NODE = {"driver": "null-co", "node-name": "n", "size": 65536, "read-zeroes": True}
CD = "-machine q35 -device ide-cd,id=cd,bus=ide.0 "

SESSIONS = {
    "empty-cd": Session(CD, QUERIES),
    "empty-floppy": Session(
        "-machine pc -device floppy,id=f -device virtio-scsi-pci,id=s",
        (*QUERIES, ("device_add", {"driver": "scsi-cd", "id": "sc"}), *QUERIES),
    ),
    "medium": Session(
        CD,
        (
            ("blockdev-add", NODE),
            ("blockdev-open-tray", {"id": "cd"}),
            ("blockdev-insert-medium", {"id": "cd", "node-name": "n"}),
            *QUERIES,
            ("blockdev-close-tray", {"id": "cd"}),
            *QUERIES,
            ("blockdev-del", {"node-name": "n"}),
            ("blockdev-remove-medium", {"id": "cd"}),
            ("eject", {"id": "cd"}),
            *QUERIES,
            ("blockdev-del", {"node-name": "n"}),
            ("blockdev-open-tray", {"id": "cd"}),
            ("blockdev-remove-medium", {"id": "cd"}),
            ("blockdev-insert-medium", {"id": "cd", "node-name": "zz"}),
            ("blockdev-insert-medium", {"id": "cd", "node-name": "n"}),
            ("blockdev-del", {"node-name": "n"}),
            ("blockdev-insert-medium", {"id": "cd", "node-name": "n"}),
            ("blockdev-remove-medium", {"id": "cd"}),
            ("blockdev-del", {"node-name": "n"}),
            *QUERIES,
        ),
    ),
    "change": Session(
        CD,
        (
            ("blockdev-change-medium", {"id": "cd", "filename": "disk.img"}),
            *QUERIES,
            ("blockdev-change-medium", {"id": "cd", "filename": "disk.img", "format": "raw"}),
            *QUERIES,
            ("blockdev-change-medium", {"id": "cd", "filename": "/nope"}),
            ("blockdev-change-medium", {"id": "cd", "filename": "disk.img", "format": "foo"}),
            (
                "blockdev-change-medium",
                {"id": "cd", "filename": "disk.img", "read-only-mode": "read-write"},
            ),
            *QUERIES,
            "eject cd",
            ("eject", {"id": "cd"}),
            "change cd disk.img",
            *QUERIES,
        ),
    ),
    "refused": Session(
        CD + "-blockdev null-co,node-name=b1,read-zeroes=on "
        "-blockdev null-co,node-name=b2,read-zeroes=on "
        "-blockdev null-co,node-name=b3,read-zeroes=on "
        "-device ide-hd,id=h,drive=b2 -device virtio-blk-pci,id=vd,drive=b1 "
        "-device virtio-scsi-pci,id=s -device scsi-hd,id=sh,drive=b3",
        (
            ("blockdev-insert-medium", {"id": "cd", "node-name": "b2"}),
            ("blockdev-open-tray", {"id": "cd"}),
            ("blockdev-insert-medium", {"id": "cd", "node-name": "b2"}),
            ("blockdev-insert-medium", {"id": "zz", "node-name": "b2"}),
            *(
                (command, {"id": id_, **more})
                for id_ in ("h", "vd", "sh", "zz", "/machine/peripheral/vd/virtio-backend", "s")
                for command, more in (
                    ("blockdev-open-tray", {}),
                    ("blockdev-close-tray", {}),
                    ("eject", {}),
                    ("blockdev-change-medium", {"filename": "disk.img"}),
                    ("blockdev-remove-medium", {}),
                    ("blockdev-insert-medium", {"node-name": "b2"}),
                )
            ),
            ("eject", {}),
            ("eject", {"device": "h"}),
            ("eject", {"device": "h", "id": "h"}),
            *QUERIES,
        ),
    ),
    "drives": Session(
        "-machine q35 -drive file=disk.img,format=raw,if=none,id=d -drive if=none,id=c,media=cdrom "
        "-drive if=none,id=unused -drive if=none,id=e -device ide-hd,drive=d,id=hd "
        "-device ide-cd,drive=c,id=cd,bus=ide.1 -device ide-cd,drive=e,id=ce,bus=ide.2",
        (*QUERIES, ("eject", {"device": "c"}), *QUERIES, ("eject", {"device": "unused"}), *QUERIES),
    ),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 16))
    ours = hold(link_to_stand_in(release, tmp_path), SESSIONS[name], tmp_path)
    assert ours == hold(release_qemu, SESSIONS[name], tmp_path)
