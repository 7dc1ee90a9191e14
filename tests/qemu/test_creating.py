"""A stand-in makes the images that QEMU makes, and refuses those that QEMU refuses."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qmpserver.standin.state.block import images
from qmpserver.standin.state.block.qcow2 import Qcow2, read
from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import without_varying
from tests.qemu.steps import Look, Step, Until, assert_same, said

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

IMAGES = "[machine]\nimages = true\n"
FLAT: Step = ("query-named-block-nodes", {"flat": True})
MIB = 1 << 20


def do(command: str, /, **arguments: Any) -> Step:
    return command, {key.replace("_", "-"): value for key, value in arguments.items()}


def create(driver: str, /, **options: Any) -> list[Step]:
    """Create an image, and wait for the job."""
    given = {key.replace("_", "-"): value for key, value in options.items()}
    return [
        do("blockdev-create", job_id="c", options={"driver": driver, **given}),
        Until("concluded"),
        "query-jobs",
        do("job-dismiss", id="c"),
        Until("null"),
    ]


def add(driver: str, name: str, **options: Any) -> Step:
    return do("blockdev-add", driver=driver, node_name=name, **options)


def image(name: str, **options: Any) -> list[Step]:
    """Create a qcow2 image, and a node of it."""
    made = f"{name}.qcow2"
    return [
        *create("file", filename=made, size=0),
        add("file", f"{name}-file", filename=made),
        *create("qcow2", file=f"{name}-file", size=5 * MIB, **options),
        add("qcow2", name, file=f"{name}-file", backing=None),
    ]


def snapshot(**arguments: Any) -> Step:
    return do("blockdev-snapshot-sync", **arguments)


def files(directory: Path) -> list[Any]:
    """Return what the headers of all images tell, and the modes of their files."""
    found = []
    for path in sorted(one for one in directory.iterdir() if one.is_file()):
        read = images.read([str(path)])[str(path)]
        told = [read.format, read.disk_size, read.backing, read.backing_format]
        found.append([path.name, *told, path.stat().st_mode])
    return [without_varying(one) for one in found]


def sizes(directory: Path) -> list[Any]:
    return sorted((one.name, one.stat().st_size) for one in directory.iterdir())


def pipe(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    (directory / "sub").mkdir()


FILES: list[Step] = [
    Look(pipe),
    *create("file", filename="a", size=MIB),
    *create("file", filename="b", size=1000),
    *create("file", filename="c", size=0),
    *create("file", filename="a", size=4096),
    *create("file", filename="full", size=4096, preallocation="full"),
    *create("file", filename="x1", size=4096, preallocation="metadata"),
    *create("file", filename="x2", size=-1),
    *create("file", filename="x3", size=1 << 62),
    *create("file", filename="/nope/x", size=512),
    *create("file", filename="sub", size=512),
    *create("file", filename="", size=512),
    *create("file", filename="pipe", size=512),
    *create("file", filename="/dev/null", size=512),
    do("blockdev-create", job_id="c", options={"driver": "raw"}),
    do("blockdev-create", job_id="c", options={"driver": "null-co"}),
    do("blockdev-create", job_id="c d", options={"driver": "null-co"}),
    do("blockdev-create", job_id="c", options={"driver": "file", "filename": "a"}),
    Look(sizes),
    Look(files),
]

QCOW2: list[Step] = [
    *create("file", filename="a", size=MIB),
    *create("file", filename="b", size=0),
    *create("qcow2", file="nope", size=512),
    *create("qcow2", file={"driver": "file", "filename": "nope"}, size=512),
    *create("qcow2", file={"driver": "file", "filename": "b"}, size=512),
    add("file", "fa", filename="a"),
    add("null-co", "n", read_zeroes=True),
    add("file", "ro", filename="b", read_only=True),
    *create("qcow2", file="n", size=512),
    *create("qcow2", file="ro", size=512),
    *create("qcow2", file="fa", size=0),
    FLAT,
    *itertools.chain.from_iterable(
        create("qcow2", file="fa", **{"size": MIB, **options})
        for options in (
            {"size": 1000},
            {"size": 1 << 60},
            {"size": -512},
            {"backing-file": "b" * 1024},
            {"backing-file": "b" * 500, "cluster-size": 512},
            {"cluster-size": 1000},
            {"cluster-size": 256},
            {"cluster-size": 4 * MIB},
            {"refcount-bits": 3},
            {"refcount-bits": 128},
            {"version": "v2", "refcount-bits": 1},
            {"version": "v2", "lazy-refcounts": True},
            {"version": "v2", "extended-l2": True},
            {"version": "v2", "compression-type": "zstd"},
            {"extended-l2": True, "cluster-size": 4096},
            {"backing-fmt": "raw"},
            {"backing-file": "b", "preallocation": "metadata"},
            {"data-file": "nope"},
            {"data-file-raw": True},
            {"size": 1 << 40, "backing-file": "/dir/b", "backing-fmt": "qcow2"},
        )
    ),
    Look(files),
    add("qcow2", "q", file="fa", backing=None),
    FLAT,
    *create("qcow2", file="fa", size=512),
    *create("qcow2", file="q", size=512),
    do("blockdev-del", node_name="q"),
    *create("qcow2", file="fa", size=2 * MIB, backing_file="b"),
    add("qcow2", "q", file="fa", backing=None),
    FLAT,
]

SNAPSHOTS: list[Step] = [
    Look(pipe),
    *create("file", filename="disk.img", size=MIB),
    *create("file", filename="junk", size=100),
    add("file", "raw-file", filename="disk.img"),
    add("raw", "r", file="raw-file"),
    add("null-co", "n", size=1024, read_zeroes=True),
    *image("q"),
    *image("o"),
    add("null-co", "big", size=1 << 52),
    snapshot(node_name="big", snapshot_file="big", snapshot_node_name="s"),
    do("blockdev-del", node_name="big"),
    *create("file", filename="free", size=0),
    add("raw", "free", file={"driver": "file", "filename": "free"}),
    snapshot(node_name="free", snapshot_file="unused", snapshot_node_name="unused"),
    FLAT,
    *(
        do("device_add", driver="virtio-blk-pci", id=f"v{one}", drive=one)
        for one in ("q", "r", "n")
    ),
    *(
        snapshot(node_name="q", snapshot_node_name="s", **{"snapshot-file": "s", **more})
        for more in (
            {"snapshot-file": "/nope/a"},
            {"snapshot-file": "sub"},
            {"snapshot-file": ""},
            {"snapshot-file": "file:"},
            {"snapshot-file": "foo:x"},
            {"snapshot-file": "null-co://"},
            {"snapshot-file": "q.qcow2"},
            {"format": "raw"},
            {"format": "nope"},
            {"format": "file"},
            {"format": "vdi"},
            {"format": "parallels"},
            {"format": "bochs"},
            {"format": "null-co"},
            {"mode": "existing"},
            {"mode": "nope"},
            {"snapshot-file": "junk", "mode": "existing"},
        )
    ),
    snapshot(node_name="q", snapshot_file="s"),
    snapshot(node_name="q", snapshot_file="s", snapshot_node_name="r"),
    snapshot(snapshot_file="s"),
    Look(files),
    snapshot(node_name="q", snapshot_file="s", snapshot_node_name="s"),
    FLAT,
    snapshot(node_name="q", snapshot_file="t", snapshot_node_name="t"),
    snapshot(node_name="s", snapshot_file="file:t", snapshot_node_name="t"),
    snapshot(node_name="r", snapshot_file="sub/u", snapshot_node_name="u"),
    snapshot(node_name="n", snapshot_file="v", snapshot_node_name="v"),
    FLAT,
    Look(files),
    Look(lambda directory: files(directory / "sub")),
    do(
        "transaction",
        actions=[
            {
                "type": "blockdev-snapshot-sync",
                "data": {
                    "node-name": "u",
                    "snapshot-file": "sub/x",
                    "snapshot-node-name": "x",
                },
            },
            {"type": "abort", "data": {}},
        ],
    ),
    Look(lambda directory: files(directory / "sub")),
    FLAT,
]


CHAIN: list[Step] = [
    *image("q"),
    do("device_add", driver="virtio-blk-pci", id="v", drive="q"),
    *(
        snapshot(node_name=below, snapshot_file=over, snapshot_node_name=over)
        for below, over in (("q", "s1"), ("s1", "s2"), ("s2", "s3"))
    ),
    do("block-commit", job_id="j", device="s3", top_node="s2", base_node="q"),
    Until("null"),
    FLAT,
    snapshot(node_name="s3", snapshot_file="s4", snapshot_node_name="s4"),
    do("block-stream", job_id="j", device="s4", base_node="q"),
    Until("null"),
    FLAT,
    do("block-stream", job_id="j", device="s4"),
    Until("null"),
    FLAT,
]


def drive(command: str, /, **arguments: Any) -> list[Step]:
    return [do(command, **{"job-id": "j", "sync": "full", **arguments})]


def refused(command: str) -> list[Step]:
    """Return commands that QEMU refuses, before and after it has created the image."""
    return [
        step
        for more in (
            {"device": "nope", "target": "x"},
            {"target": "/nope/x"},
            {"target": "sub"},
            {"target": "foo:x"},
            {"target": "x", "format": "nope"},
            {"target": "x", "format": "null-co"},
            {"target": "x", "mode": "existing"},
            {"target": "x", "sync": "none"},
            {"target": "x1", "sync": "incremental"},
            {"target": "x2", "speed": -1},
            {"target": "x3", "job-id": "a b"},
            {"target": "junk", "mode": "existing", "format": "qcow2"},
        )
        for step in drive(command, **{"device": "d", **more})
    ]


DRIVE = ["-drive", "if=none,id=d,node-name=d-node,file=null-co://,format=raw,file.read-zeroes=on"]
MIRROR: list[Step] = [
    Look(pipe),
    *create("file", filename="junk", size=100),
    *refused("drive-mirror"),
    *drive("drive-mirror", device="d", target="x4", node_name="d-node"),
    FLAT,
    *drive("drive-mirror", device="d", target="m1", format="qcow2", node_name="m1", sync="none"),
    Until("ready"),
    *drive("drive-mirror", device="d", target="m2"),
    do("blockdev-del", node_name="m1"),
    do("block-job-cancel", device="j", force=True),
    Until("null"),
    FLAT,
    Look(files),
    *drive("drive-mirror", device="d", target="m3", format="raw", node_name="m3"),
    Until("ready"),
    do("block-job-complete", device="j"),
    Until("null"),
    FLAT,
    "query-block",
    do("blockdev-del", node_name="m3"),
]
BACKUP: list[Step] = [
    Look(pipe),
    *create("file", filename="junk", size=100),
    *refused("drive-backup"),
    *drive("drive-backup", device="d", target="junk", mode="existing", format="raw"),
    *drive("drive-backup", device="d", target="x4", sync="bitmap", bitmap="nope"),
    FLAT,
    *drive("drive-backup", device="d", target="b1", format="qcow2", sync="none"),
    Until("running"),
    *drive("drive-backup", device="d", target="b2", job_id="second"),
    do("block-job-cancel", device="j", force=True),
    Until("null"),
    FLAT,
    *drive("drive-backup", device="d", target="b3"),
    Until("null"),
    FLAT,
    Look(files),
]

SESSIONS: dict[str, tuple[list[str], list[Step]]] = {
    "files": ([], FILES),
    "qcow2": ([], QCOW2),
    "snapshots": ([], SNAPSHOTS),
    "chain": ([], CHAIN),
    "mirror": (DRIVE, MIRROR),
    "backup": (DRIVE, BACKUP),
}


@pytest.mark.parametrize("session", SESSIONS)
def test_sessions(release: Release, release_qemu: str, tmp_path: Path, session: str) -> None:
    options, steps = SESSIONS[session]
    assert_same(release, release_qemu, tmp_path, options, steps, IMAGES)


def test_qemu_opens_the_images(release: Release, release_qemu: str, tmp_path: Path) -> None:
    """QEMU sees in a stand-in's images what the stand-in sees."""
    steps = [
        *image("q", backing_file="b.img", backing_fmt="raw"),
        do("device_add", driver="virtio-blk-pci", id="v", drive="q"),
        snapshot(node_name="q", snapshot_file="s", snapshot_node_name="s"),
    ]
    link = link_to_stand_in(release.name, tmp_path, IMAGES)
    made = said(link, [], steps, tmp_path / "made")
    assert [one for one in made.replies if "error" in one[-1]] == []
    opening: list[Step] = [
        add("qcow2", name, file={"driver": "file", "filename": f"../made/{name}"}, backing=None)
        for name in ("q.qcow2", "s")
    ]
    ours = said(link, [], [*opening, FLAT], tmp_path / "ours")
    theirs = said(release_qemu, [], [*opening, FLAT], tmp_path / "theirs")
    assert ours == theirs


SHAPES = (
    Qcow2(0),
    Qcow2(512),
    Qcow2(1 << 45, "\N{LATIN SMALL LETTER E WITH ACUTE}", "raw"),
    Qcow2(1 << 30, cluster_size=512),
    Qcow2(1 << 36, cluster_size=2 << 20),
    Qcow2(1 << 30, version=2, backing="b"),
    *(Qcow2(1 << 28, cluster_size=512, refcount_bits=1 << one) for one in range(7)),
    Qcow2(1 << 40, lazy=True, extended=True, zstd=True),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_qemu_img_finds_no_fault(shape: Qcow2, tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not here; it is in Debian's package qemu-utils")
    path = tmp_path / "made"
    path.write_bytes(b"junk" * 1000)
    if shape.backing:
        (tmp_path / shape.backing).write_bytes(bytes(512))
    with path.open("r+b") as file:
        shape.write(file.fileno())
        found = read(file.fileno())
    assert found is not None
    assert found[:3] == shape[:3]

    def qemu_img(command: str) -> dict[str, Any]:
        words = ["qemu-img", command, "--output=json", "-f", "qcow2", str(path)]
        shown = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
        told: dict[str, Any] = json.loads(shown.stdout)
        return told

    checked = qemu_img("check")
    assert not any(checked.get(fault) for fault in ("corruptions", "leaks", "check-errors"))
    info = qemu_img("info")
    data = info["format-specific"]["data"]
    assert info["virtual-size"] == shape.size
    assert info["cluster-size"] == shape.cluster_size
    assert info.get("backing-filename", "") == shape.backing
    assert info.get("backing-filename-format", "") == shape.backing_format
    assert data["refcount-bits"] == shape.refcount_bits
    assert data["compression-type"] == ("zstd" if shape.zstd else "zlib")
    assert data["compat"] == ("1.1" if shape.version > 2 else "0.10")
    assert data.get("lazy-refcounts", False) == shape.lazy
    assert data.get("extended-l2", False) == shape.extended
