"""Objects of a stand-in's tree have the types and the values of properties that QEMU's have."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import NEWEST, Release
from tests.qemu.steps import Step, assert_same

OPTIONS = (
    "-machine pc -smp 3,maxcpus=6,sockets=2,cores=3 -m 256,slots=2,maxmem=1G "
    "-chardev null,id=c -chardev ringbuf,id=r -object iothread,id=io "
    "-object memory-backend-ram,id=m,size=1M -device virtio-net-pci -device e1000,id=e "
    "-chardev socket,id=s,path=s.sock,server=on,wait=off -mon s -audiodev none,id=a"
)
CPU = "/machine/unattached/device[3]"


def get(path: str, *names: str) -> list[Step]:
    return [("qom-get", {"path": path, "property": name}) for name in names]


def put(path: str, name: str, value: Any) -> Step:
    return "qom-set", {"path": path, "property": name, "value": value}


LISTS: list[Step] = [
    ("qom-list", {"path": path})
    for path in (
        "/chardevs",
        "/chardevs/c",
        "/objects/io",
        "/machine/peripheral",
        "/machine/peripheral-anon",
        "/machine/nope",
    )
]
STEPS: list[Step] = [
    *LISTS,
    *get("/machine", "type", "memory", "smp", "usb", "nvdimm", "peripheral", "nope"),
    *get(CPU, "type", "socket-id", "die-id", "module-id", "core-id", "thread-id", "node-id"),
    *get(CPU, "apic-id", "start-powered-off", "hotplugged", "realized", "parent_bus", "migratable"),
    *get("/objects/io", "type", "poll-max-ns", "poll-grow", "poll-shrink", "poll-weight"),
    *get("/objects/io", "aio-max-batch", "thread-pool-min", "thread-pool-max", "nope"),
    *(
        step
        for name in ("m", "pc.ram")
        for step in get(
            f"/objects/{name}",
            *("size", "share", "dump", "merge", "policy", "reserve", "prealloc"),
            *("prealloc-threads", "host-nodes", "x-use-canonical-path-for-ramblock-id"),
        )
    ),
    *get("/chardevs/c", "type"),
    put("/objects/io", "poll-max-ns", 5),
    put("/objects/m", "merge", False),
    put("/objects/m", "size", 5),
    put("/objects/m", "nope", 5),
    put("/machine", "type", "x"),
    *get("/objects/io", "poll-max-ns"),
    "query-iothreads",
    "query-memdev",
]


def test_values(release: Release, release_qemu: str, tmp_path: Path) -> None:
    assert_same(release, release_qemu, tmp_path, OPTIONS.split(), STEPS)


def test_apic_ids(newest_qemu: str, tmp_path: Path) -> None:
    steps = [step for number in (0, *range(2, 12)) for step in get(path_of(number), "apic-id")]
    options = ["-machine", "pc", "-smp", "12,sockets=2,dies=2,cores=3"]
    assert_same(NEWEST, newest_qemu, tmp_path, options, steps)


def path_of(number: int) -> str:
    return f"/machine/unattached/device[{number}]"


@pytest.mark.parametrize("path", ["/", "/audiodevs", "/backend"])
def test_newest(path: str, newest_qemu: str, tmp_path: Path) -> None:
    steps: list[Step] = [("qom-list", {"path": path})]
    assert_same(NEWEST, newest_qemu, tmp_path, OPTIONS.split(), steps)
