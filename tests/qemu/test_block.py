"""A stand-in shows and changes block devices as QEMU does."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from qmpserver.releases import NEWEST
from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Command, Session, hold

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

IMAGES = "[machine]\nimages = true\n"
QUERIES: tuple[Command, ...] = (
    ("query-block", {}),
    ("query-blockstats", {}),
    "info block",
)
NODE = {"driver": "null-co", "node-name": "n", "size": 65536, "read-zeroes": True}
FILE_OF_NOTHING = {"driver": "file", "filename": "/nope"}
OVERLAY = {
    "driver": "qcow2",
    "node-name": "o",
    "file": {"driver": "file", "filename": "overlay.qcow2"},
    "backing": None,
}
NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
# An image of 5 MiB, whose clusters have 64 KiB: header, refcounts, and the table of no cluster.
QCOW2 = (
    b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", 2, 0, 0, 16, 5 << 20, 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
).ljust(1 << 16, b"\0")
QCOW2 += struct.pack(">Q", 2 << 16).ljust(1 << 16, b"\0")
QCOW2 += struct.pack(">4H", 1, 1, 1, 1).ljust(1 << 16, b"\0") + bytes(1 << 16)
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
    "drive_add": Session(
        "-machine pc",
        (
            *(
                f"drive_add auto {words}"
                for words in (
                    '"file=other.img,if=none,id=quoted,format=raw"',
                    '"file=other.img,if=none',
                    "file=other.img,if=none,id=x y,format=raw",
                    "if=none,id=a,file=/nope",
                    "if=none,id=a,file=disk.img,format=foo",
                    "if=none,id=a,file=disk.img,format=raw,foo=1",
                    "if=none,id=a,file=disk.img,format=raw,file.foo=1",
                    "if=none,id=quoted",
                    "if=none,id=b,driver=null-co",
                    "if=none,id=c,driver=qcow2,file.driver=file,file.filename=disk.qcow2",
                    "if=none,id=d,format=qcow2,file.filename=disk.img",
                    "if=none,id=d,format=raw,file=disk.img,iops=100,group=g",
                    "if=none,id=e,file.driver=null-co,throttling.bps-read=5",
                    "if=none,id=f,file.driver=null-co,iops=x",
                    "if=none,id=f,file.driver=null-co,iops=1,iops_rd=1",
                    "if=none,id=f,file.driver=null-co,iops_max=1",
                    "if=none,id=f,file.driver=null-co,detect-zeroes=on,discard=unmap",
                    "if=none,id=g,file.driver=null-co,readonly=maybe",
                    "if=none,id=g,file=null-co://,driver=raw,format=raw",
                    "if=none,id=g,format=qcow2",
                    "if=none,id=g,cache.direct=on,file.driver=null-co",
                    "if=none,id=h,file.driver=null-co,werror=foo",
                    "if=none,id=h,file.driver=null-co,aio=foo",
                    "if=none,id=h,file.driver=null-co,cache=writethrough",
                    "if=none,id=i,file.driver=null-co,group=g,iops=7",
                    "if=none,id=j",
                    "id=x",
                    '""',
                )
            ),
            *QUERIES,
            "drive_del quoted",
            "drive_del f",
            *QUERIES,
        ),
    ),
    "throttle": Session(
        "-machine pc -drive if=none,id=a,file=null-co://,format=raw,iops=100,group=g "
        "-drive if=none,id=b,file=null-co://,format=raw -drive if=none,id=c "
        "-blockdev null-co,node-name=n -device virtio-blk-pci,id=v,drive=n",
        (
            *QUERIES,
            *(
                ("block_set_io_throttle", {**NO_LIMITS, **limits})
                for limits in (
                    {"device": "a", "iops": 100, "iops_max": 500, "iops_max_length": 2},
                    {"device": "b", "bps": 100, "group": "g1"},
                    {"device": "zz", "bps": 100},
                    {"device": "c", "bps": 100},
                    {"bps": 100},
                    {"device": "a", "bps": -1},
                    {"device": "a", "bps": 100, "bps_rd": 2},
                    {"device": "a", "bps": 100, "bps_max": 50},
                    {"device": "a", "bps_max": 50},
                    {"device": "a", "iops_wr": 9, "iops_wr_max": 50, "iops_wr_max_length": 0},
                    {"device": "a", "iops_wr": 9, "iops_wr_max_length": 3},
                    {"device": "a", "bps": 9, "iops_size": 3},
                    {"id": "v", "iops": 5},
                    {"id": "/machine/peripheral/v/virtio-backend", "iops": 5},
                )
            ),
            *QUERIES,
            "block_set_io_throttle b 0 0 0 50 0 0",
            ("block_set_io_throttle", {**NO_LIMITS, "device": "a"}),
            *QUERIES,
        ),
    ),
    "quotes": Session(
        "-machine pc",
        (
            'device_add "virtio-net-pci,id=x"',
            "device_add virtio-net-pci,id=x y",
            'device_add "a',
            "device_add",
            'netdev_add "user,id=n1"',
            "netdev_add user,id=n2 x",
            'netdev_add "a',
            'chardev-add "null,id=c1"',
            "chardev-add null,id=c2 x",
            "chardev-add",
            'drive_add -n 0 "driver=null-co,node-name=b1"',
            "drive_del b1",
            "drive_add -n 0 driver=file,node-name=f,filename=disk.img",
            "drive_add -n 0 driver=file,node-name=f,filename=disk.img",
            "info block -n",
        ),
    ),
    "driver": Session(
        "-machine pc -drive driver=null-co,if=none,id=a "
        "-drive driver=qcow2,file.driver=file,file.filename=disk.qcow2 "
        "-drive if=none,file=disk.img,id=w",
        (*QUERIES, ("query-named-block-nodes", {"flat": True})),
    ),
    "onboard": Session(
        "-machine pc -smp 2 -cdrom disk.img -drive if=floppy -drive if=ide,index=1,file=null-co://"
        ",format=raw -drive if=virtio,file=null-co://,format=raw -device virtio-blk-pci,drive=n "
        "-drive if=pflash,file=flash.img,format=raw -blockdev null-co,node-name=n",
        QUERIES,
    ),
    "onboard-q35": Session(
        "-machine q35 -cdrom disk.img -hda null-co:// -fda null-co:// -hdd disk.qcow2", QUERIES
    ),
    "names": Session("-machine pc -hda null-co:// -drive if=ide,media=cdrom,index=2", QUERIES),
    "unplugged": Session(
        "-machine pc -device virtio-scsi-pci,id=s -blockdev null-co,node-name=n,read-zeroes=on",
        (
            "drive_add 0 if=none,id=a,file=null-co://,format=raw",
            ("device_add", {"driver": "scsi-hd", "id": "h", "drive": "a"}),
            ("device_add", {"driver": "scsi-hd", "id": "n", "drive": "n"}),
            ("device_add", {"driver": "scsi-cd", "id": "c"}),
            *QUERIES,
            ("device_add", {"driver": "scsi-hd", "id": "x", "drive": "a"}),
            ("device_del", {"id": "h"}),
            ("device_del", {"id": "n"}),
            ("device_del", {"id": "c"}),
            *QUERIES,
            ("query-named-block-nodes", {"flat": True}),
            "drive_del a",
        ),
    ),
    "deleted": Session(
        "-machine pc -drive if=none,id=a,file=null-co://,format=raw -drive if=none,id=c,media=cdrom"
        ",file=null-co://,format=raw -device virtio-blk-pci,id=v,drive=a "
        "-device ide-cd,id=cd,drive=c",
        (*QUERIES, "drive_del a", *QUERIES, "drive_del c", *QUERIES, "drive_del a"),
    ),
    "nodes": Session(
        "-machine pc -object throttle-group,id=tg -blockdev throttle,node-name=t,throttle-group=tg"
        ",file.driver=null-co,file.size=1024 -blockdev raw,node-name=r,file.driver=null-co "
        "-blockdev raw,node-name=o,file.driver=file,file.filename=disk.img,offset=512,size=1024 "
        "-blockdev qcow2,node-name=q,file.driver=file,file.filename=disk.qcow2 "
        "-blockdev copy-on-read,node-name=c,file=t -blockdev null-aio,node-name=n,latency-ns=5",
        (
            ("query-named-block-nodes", {"flat": True}),
            ("query-named-block-nodes", {}),
            ("query-blockstats", {"query-nodes": True}),
            ("block_resize", {"node-name": "r", "size": 1 << 20}),
            ("blockdev-del", {"node-name": "t"}),
            ("blockdev-del", {"node-name": "c"}),
            ("blockdev-del", {"node-name": "t"}),
            ("blockdev-add", {"driver": "raw", "node-name": "m", "file": FILE_OF_NOTHING}),
            ("query-named-block-nodes", {"flat": True}),
        ),
    ),
    "snapshots": Session(
        "-machine pc -blockdev qcow2,node-name=q,file.driver=file,file.filename=disk.qcow2 "
        "-device virtio-blk-pci,drive=q,id=v -blockdev null-co,node-name=n,read-zeroes=on "
        "-blockdev raw,node-name=r,file=n",
        (
            ("blockdev-snapshot", {"node": "q", "overlay": "q"}),
            ("blockdev-snapshot", {"node": "q", "overlay": "zz"}),
            ("blockdev-snapshot", {"node": "zz", "overlay": "n"}),
            ("blockdev-snapshot", {"node": "q", "overlay": "n"}),
            ("blockdev-snapshot", {"node": "q", "overlay": "r"}),
            ("blockdev-snapshot-sync", {"device": "zz", "snapshot-file": "s.qcow2"}),
            (
                "blockdev-snapshot-sync",
                {"node-name": "q", "snapshot-file": "s", "snapshot-node-name": "q"},
            ),
            ("blockdev-mirror", {"job-id": "j", "device": "q", "target": "q", "sync": "full"}),
            ("block-stream", {"job-id": "j", "device": "q", "base-node": "n"}),
            ("block-stream", {"job-id": "j", "device": "q", "base-node": "q"}),
            ("block-commit", {"job-id": "j", "device": "q", "base-node": "n"}),
            ("block-commit", {"job-id": "j", "device": "q", "base-node": "q"}),
            ("block-commit", {"job-id": "j", "device": "q"}),
            ("blockdev-add", OVERLAY),
            ("blockdev-snapshot", {"node": "q", "overlay": "o"}),
            ("blockdev-snapshot", {"node": "q", "overlay": "o"}),
            *QUERIES,
            ("blockdev-del", {"node-name": "q"}),
            ("blockdev-del", {"node-name": "o"}),
        ),
    ),
}

REFUSED = """
-machine pc -drive file=/nope
-machine pc -hda /nope
-machine pc -cdrom /nope
-machine pc -blockdev raw,node-name=r,file.driver=file,file.filename=/nope
-machine pc -drive file=disk.img,format=foo
-machine pc -drive file=disk.img,format=raw,foo=1
-machine pc -drive file=disk.img,format=raw,file.foo=1
-machine pc -drive if=none,id=a,file=disk.img,format=qcow2
-machine pc -drive if=ide,index=1 -drive if=ide,index=1,media=cdrom
-machine pc -drive if=ide,bus=0,unit=5,file=null-co://,format=raw
-machine pc -drive if=ide,bus=7,unit=0,file=null-co://,format=raw
-machine pc -drive if=ide,bus=1,index=0,file=null-co://,format=raw
-machine pc -drive if=scsi,file=null-co://,format=raw
-machine pc -drive if=ide
-machine pc -drive if=virtio
-machine pc -drive if=none,id=e -device virtio-blk-pci,drive=e
-machine pc -drive if=none,id=e -device ide-hd,drive=e
-machine pc -drive if=none,id=d,driver=null-co -device ide-hd,drive=d -device sd-card,drive=d
-machine pc -drive if=none,id=d,driver=null-co -device ide-hd,drive=d -device ide-hd,drive=d
-machine pc -drive if=ide,id=d,file=null-co://,format=raw -device virtio-blk-pci,drive=d
-machine pc -drive if=none,id=a,node-name=a,file=null-co://,format=raw
-machine pc -blockdev null-co,node-name=a -drive if=none,id=a,file=null-co://,format=raw
-machine pc -drive if=none,id=1a
-machine pc -drive file=disk.img,readonly=on,if=ide,format=raw
""".strip().splitlines()


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    ours = hold(link_to_stand_in(release.name, tmp_path, IMAGES), SESSIONS[name], tmp_path)
    assert ours == hold(release_qemu, SESSIONS[name], tmp_path)


@pytest.mark.parametrize("options", REFUSED)
def test_refused(options: str, newest_qemu: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    ours = hold(link_to_stand_in(NEWEST.name, tmp_path, IMAGES), Session(options), tmp_path)
    assert ours == hold(newest_qemu, Session(options), tmp_path)


def prepare(directory: Path) -> None:
    """Make the images that sessions name."""
    for name, size in (("disk.img", 1 << 16), ("other.img", 1 << 20), ("flash.img", 1 << 20)):
        (directory / name).write_bytes(bytes(size))
    for name in ("disk.qcow2", "overlay.qcow2"):
        (directory / name).write_bytes(QCOW2)
