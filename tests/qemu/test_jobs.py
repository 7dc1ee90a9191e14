"""A stand-in's jobs, bitmaps, transactions and exports are as QEMU's."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Session, hold
from tests.qemu.steps import Look, Step, Until, assert_same, connects

Command = tuple[str, dict[str, Any]]


def node(name: str, **options: Any) -> Step:
    return "blockdev-add", {"driver": "null-co", "node-name": name, **options}


def do(command: str, /, **arguments: Any) -> Command:
    return command, {key.replace("_", "-"): value for key, value in arguments.items()}


def mirror(device: str, target: str, sync: str = "full", **options: Any) -> Command:
    return do("blockdev-mirror", device=device, target=target, sync=sync, **options)


def backup(device: str, target: str, sync: str = "none", **options: Any) -> Command:
    return do("blockdev-backup", device=device, target=target, sync=sync, **options)


def delete(name: str) -> Step:
    return do("blockdev-del", node_name=name)


def bitmap(verb: str, name: str, on: str = "a", **options: Any) -> Step:
    return do(f"block-dirty-bitmap-{verb}", node=on, name=name, **options)


def transaction(*actions: Step) -> Step:
    made = []
    for one in actions:
        kind, data = one if isinstance(one, tuple) and len(one) == 2 else (one, {})
        made.append({"type": kind, "data": data})
    return "transaction", {"actions": made}


def export(key: str, on: str, **options: Any) -> Step:
    return do("block-export-add", id=key, type="nbd", node_name=on, **options)


NBD = {"addr": {"type": "unix", "data": {"path": "nbd.sock"}}}
NOWHERE = {"addr": {"type": "unix", "data": {"path": "/nope/nbd.sock"}}}
NODES: list[Step] = [node("a"), node("b"), node("c")]
READY = Until("ready")
CREATE = {"driver": "qcow2", "file": "nope", "size": 1 << 20}

SESSIONS: dict[str, list[Step]] = {
    "mirror": [
        *NODES,
        mirror("a", "b"),
        mirror("a", "b", job_id=""),
        mirror("a", "b", job_id="m 1"),
        mirror("a", "a", job_id="j"),
        mirror("a", "nope", job_id="j"),
        mirror("nope", "b", job_id="j"),
        mirror("a", "b", job_id="j", speed=-1),
        mirror("a", "b", job_id="j"),
        READY,
        mirror("a", "c", job_id="second"),
        mirror("c", "b", job_id="second"),
        backup("a", "c", job_id="second"),
        do("block-job-pause", device="j"),
        do("block-job-pause", device="j"),
        do("job-pause", id="j"),
        "query-jobs",
        "query-block-jobs",
        do("job-resume", id="j"),
        do("job-resume", id="j"),
        do("block-job-resume", device="j"),
        do("block-job-set-speed", device="j", speed=-1),
        do("block-job-set-speed", device="nope", speed=1),
        delete("a"),
        delete("b"),
        do("block-job-cancel", device="j"),
        Until("null"),
        "query-jobs",
        delete("b"),
    ],
    "backup": [
        *NODES,
        backup("a", "b"),
        backup("a", "a", job_id="k"),
        backup("a", "nope", job_id="k"),
        backup("a", "b", "incremental", job_id="k"),
        backup("a", "b", "bitmap", job_id="k"),
        backup("a", "b", "incremental", job_id="k", bitmap="nope"),
        backup("a", "b", job_id="k", auto_dismiss=False),
        Until("running"),
        backup("a", "b", job_id="second"),
        delete("b"),
        do("job-complete", id="k"),
        do("job-pause", id="k"),
        do("job-pause", id="k"),
        do("block-job-cancel", device="k"),
        do("job-cancel", id="k"),
        Until("concluded"),
        "query-jobs",
        do("job-dismiss", id="k"),
        do("job-dismiss", id="k"),
    ],
    "create": [
        ("blockdev-create", {"job-id": "c", "options": CREATE}),
        Until("concluded"),
        ("blockdev-create", {"job-id": "c", "options": CREATE}),
        ("blockdev-create", {"job-id": "c d", "options": CREATE}),
        "query-jobs",
        do("block-job-dismiss", id="c"),
        do("job-dismiss", id="c"),
        node("a"),
        do("block-stream", device="a"),
        do("block-commit", job_id="s", device="a"),
    ],
    "bitmaps": [
        *NODES,
        bitmap("add", "x"),
        bitmap("add", "x"),
        bitmap("add", "x", on="nope"),
        bitmap("add", ""),
        bitmap("add", "y", granularity=100),
        bitmap("add", "y", granularity=256),
        bitmap("add", "y", granularity=1 << 32),
        bitmap("add", "y", granularity=512),
        bitmap("add", "z", persistent=True),
        bitmap("add", "n" * 1100),
        *(bitmap(verb, "nope") for verb in ("remove", "clear", "enable", "disable")),
        bitmap("remove", "x", on="nope"),
        do("block-dirty-bitmap-merge", node="a", target="nope", bitmaps=["x"]),
        do("block-dirty-bitmap-merge", node="a", target="x", bitmaps=["nope"]),
        bitmap("disable", "x"),
        bitmap("enable", "x"),
        transaction(bitmap("add", "t"), bitmap("add", "t")),
        bitmap("clear", "t"),
        transaction(bitmap("add", "t"), "abort"),
        bitmap("clear", "t"),
        transaction(bitmap("remove", "x"), bitmap("clear", "nope")),
        bitmap("clear", "x"),
        transaction(backup("a", "b", job_id="k"), backup("nope", "c", job_id="second")),
        "query-jobs",
        transaction(backup("a", "b", job_id="k"), "abort"),
        bitmap("remove", "x"),
        bitmap("remove", "x"),
    ],
    "exports": [
        *NODES,
        node("r", **{"read-only": True}),
        "nbd-server-stop",
        do("nbd-server-add", device="a"),
        export("e", "a"),
        ("nbd-server-start", NOWHERE),
        ("nbd-server-start", {**NBD, "tls-creds": "nope"}),
        ("nbd-server-start", NBD),
        ("nbd-server-start", NBD),
        Look(lambda directory: [one.name for one in directory.iterdir()]),
        do("nbd-server-add", device="a"),
        do("nbd-server-add", device="a"),
        do("nbd-server-add", device="nope"),
        do("nbd-server-add", device="a", name=""),
        do("nbd-server-add", device="a", name="n" * 5000),
        do("nbd-server-add", device="a", name="b", bitmap="nope"),
        do("nbd-server-add", device="r", writable=True),
        export("e", "a"),
        export("e", "b"),
        export("e", "b", name="other"),
        export("f", "b"),
        export("f", "nope"),
        export("f 1", "b", name="f"),
        export("f", "b", name="f", iothread="nope"),
        export("f", "b", name="f", bitmaps=["nope"]),
        export("f", "r", name="f", writable=True),
        export("f", "b", name="f", writable=True),
        "query-block-exports",
        delete("a"),
        do("block-export-del", id="nope"),
        do("block-export-del", id="f"),
        do("block-export-del", id="f"),
        do("nbd-server-remove", name="a"),
        do("nbd-server-remove", name="a"),
        do("nbd-server-remove", name="r"),
        connects("nbd.sock"),
        delete("a"),
        "query-block-exports",
        "nbd-server-stop",
        "nbd-server-stop",
        "query-block-exports",
        Look(lambda directory: [one.name for one in directory.iterdir()]),
    ],
    "snapshots": [
        node("a"),
        *(
            step
            for kind, arguments in (
                ("save", {"vmstate": "a", "devices": ["a"]}),
                ("save", {"vmstate": "a", "devices": ["nope"]}),
                ("load", {"vmstate": "a", "devices": []}),
                ("delete", {"devices": ["a"]}),
            )
            for step in (
                do(f"snapshot-{kind}", job_id="s", tag="t", **arguments),
                Until("concluded"),
                do("snapshot-delete", job_id="s", tag="t", devices=["a"]),
                "query-jobs",
                "query-block-jobs",
                do("job-dismiss", id="s"),
            )
        ),
        do("snapshot-save", job_id="a b", tag="t", vmstate="a", devices=["a"]),
        do("job-dismiss", id="s"),
    ],
}


# Jobs that wait, and pause for a moment while the machine stops.
STOPPED = Session(
    "-machine none -blockdev null-co,node-name=a -blockdev null-co,node-name=b "
    "-blockdev null-co,node-name=c -blockdev null-co,node-name=d",
    (
        mirror("a", "b", "none", job_id="m"),
        ("query-name", {}),
        ("stop", {}),
        ("cont", {}),
        ("stop", {}),
        do("block-job-pause", device="m"),
        ("stop", {}),
        do("job-resume", id="m"),
        do("query-jobs"),
        ("system_reset", {}),
    ),
)
BACKUP = Session(
    "-machine none -blockdev null-co,node-name=a -blockdev null-co,node-name=b",
    (
        backup("a", "b", job_id="k"),
        ("query-name", {}),
        ("stop", {}),
        ("cont", {}),
        ("stop", {}),
        do("query-block-jobs"),
    ),
)


@pytest.mark.parametrize("session", [STOPPED, BACKUP])
def test_stopping(release: Release, release_qemu: str, tmp_path: Path, session: Session) -> None:
    def told(program: str) -> list[Any]:
        # A mirror of nothing is ready before its command is answered, or after that.
        return [one for one in hold(program, session, tmp_path) if one != {"return": {}}]

    assert told(link_to_stand_in(release.name, tmp_path)) == told(release_qemu)


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS)
def test_jobs(release: Release, release_qemu: str, tmp_path: Path, session: str) -> None:
    assert_same(release, release_qemu, tmp_path, [], SESSIONS[session])
