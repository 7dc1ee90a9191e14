"""A stand-in shows and refuses NUMA nodes as QEMU does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.qemu.probe import link_to_stand_in
from tests.qemu.sessions import Command, Session, hold

if TYPE_CHECKING:
    from pathlib import Path

    from qmpserver.releases import Release

QUERIES: tuple[Command, ...] = (
    ("query-hotpluggable-cpus", {}),
    ("query-memdev", {}),
    ("query-memory-size-summary", {}),
    "info numa",
    "info hotpluggable-cpus",
)
PC = "-machine pc -m 256 "
MEMORY = f"{PC}-object memory-backend-ram,id=a,size=256M -numa node,memdev=a"
TWO = (
    f"{PC}-object memory-backend-ram,id=a,size=128M -object memory-backend-ram,id=b,size=128M"
    " -numa node,memdev=a"
)
ROOM = "-m 256,slots=2,maxmem=1G -object memory-backend-ram,id=d,size=128M"


def plug(core: int, **more: Any) -> Command:
    place = {"socket-id": 0, "core-id": core, "thread-id": 0}
    return "device_add", {"driver": "qemu64-x86_64-cpu", "id": f"c{core}", **place, **more}


def node_of(path: str) -> Command:
    return "qom-get", {"path": f"/machine/{path}", "property": "node-id"}


SESSIONS = {
    "none": Session("-machine pc", QUERIES),
    "two": Session(
        f"{TWO},cpus=0-2 -numa node,memdev=b,cpus=3,cpus=4-5 -smp 4,maxcpus=6",
        (
            *QUERIES,
            ("object-del", {"id": "a"}),
            plug(4, **{"node-id": 0}),
            plug(4, **{"node-id": 1}),
            plug(5),
            *QUERIES,
            *map(node_of, ("unattached/device[0]", "peripheral/c4", "peripheral/c5")),
        ),
    ),
    "by socket": Session(f"{TWO} -numa node,memdev=b -smp 4,sockets=2", QUERIES),
    "some": Session(f"{TWO},cpus=1 -numa node,memdev=b -smp 4,sockets=2", QUERIES),
    "cpu": Session(
        f"{MEMORY} -smp 4,sockets=2 -numa node -numa cpu,node-id=0,socket-id=1"
        " -numa cpu,node-id=1,socket-id=0,core-id=1 -numa dist,src=0,dst=1,val=20",
        QUERIES,
    ),
    "room": Session(
        f"-machine q35 {ROOM} -device pc-dimm,memdev=d",
        (*QUERIES, ("set-numa-node", {"type": "node"})),
    ),
    "device": Session(
        f"-machine pc {ROOM} -object memory-backend-ram,id=a,size=256M -numa node,memdev=a "
        "-numa node -device pc-dimm,memdev=d,node=1,id=dimm",
        (
            "info numa",
            ("query-memory-devices", {}),
            ("device_add", {"driver": "pc-dimm", "memdev": "a", "id": "e"}),
        ),
    ),
    "no node": Session(f"-machine pc {ROOM} -device pc-dimm,memdev=d,node=1"),
    "no nodes": Session("-machine microvm -m 256,slots=2,maxmem=1G", ("info numa",)),
    "no machine": Session("-machine none", ("info numa",)),
}
REFUSED = [
    *(
        PC + options
        for options in """
-smp 2 -numa node,cpus=0 -numa node,cpus=0
-numa node
-numa node,memdev=a
-object iothread,id=a -numa node,memdev=a
-object memory-backend-ram,id=a,size=128M -numa node,memdev=a
-object memory-backend-ram,id=a,size=128M -numa node,memdev=a -numa node,memdev=a
-numa node,mem=256M
-numa node,nodeid=0 -numa node,nodeid=0
-numa node,nodeid=1
-numa node,nodeid=200
-numa node,cpus=5
-numa node,cpus=x
-numa node,foo=x
-numa foo
""".strip().splitlines()
    ),
    *(
        f"{MEMORY} -numa {options}"
        for options in """
node,nodeid=2
node,mem=1M,memdev=a
cpu,node-id=3,socket-id=0
cpu,node-id=0,socket-id=7
cpu,node-id=0,cluster-id=0
dist,src=0,dst=1,val=20
dist,src=0,dst=200,val=20
dist,src=0,dst=0,val=20
dist,src=0,dst=0,val=5
dist,src=0,dst=0,val=300
dist,src=0,val=20
""".strip().splitlines()
    ),
    "-machine none -numa node",
]


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions(name: str, release: Release, release_qemu: str, tmp_path: Path) -> None:
    assert_same(SESSIONS[name], release, release_qemu, tmp_path)


@pytest.mark.slow
def test_refused(release: Release, release_qemu: str, tmp_path: Path) -> None:
    link = link_to_stand_in(release.name, tmp_path)
    for options in REFUSED:
        ours = hold(link, Session(options), tmp_path)
        assert ours == hold(release_qemu, Session(options), tmp_path), options


def assert_same(session: Session, release: Release, qemu: str, directory: Path) -> None:
    """Have a session with the stand-in as a release, and with its QEMU, and compare them."""
    link = link_to_stand_in(release.name, directory)
    assert hold(link, session, directory) == hold(qemu, session, directory)
