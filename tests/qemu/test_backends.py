"""A stand-in's backends, their users and its memory devices are as QEMU's."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import NEWEST, Release
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
        ("human-monitor-command", {"command-line": "chardev-add file,id=h,path=/nope/f"}),
        change("compat_monitor0", "null"),
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


def plug(driver: str, **properties: Any) -> Step:
    return "device_add", {"driver": driver, **properties}


def create(kind: str, name: str, **properties: Any) -> Step:
    named = {key.replace("_", "-"): value for key, value in properties.items()}
    return "object-add", {"qom-type": kind, "id": name, **named}


def destroy(name: str) -> Step:
    return "object-del", {"id": name}


THROTTLE = {"driver": "throttle", "throttle-group": "t", "file": "n", "node-name": "tn"}
IN_USE: Session = (
    [
        "-m", "128,slots=4,maxmem=4G", "-machine", "pc", "-netdev", "hubport,id=h,hubid=0",
        "-chardev", "null,id=c", "-chardev", "null,id=d", "-device", "virtio-serial-pci,id=vs",
        "-object", "memory-backend-ram,id=m,size=128M",
    ],
    [
        plug("virtio-net-pci", id="n0", netdev="h"),
        plug("virtio-net-pci", id="n1", netdev="h"),
        plug("e1000", id="n1", netdev="h"),
        ("netdev_del", {"id": "h"}),
        plug("virtio-net-pci", id="n1", netdev="h"),
        plug("virtconsole", id="v0", chardev="c"),
        remove("c"),
        plug("pc-dimm", id="d0", memdev="m"),
        plug("pc-dimm", id="d1", memdev="m"),
        destroy("m"),
        create("memory-backend-ram", "i", size=1 << 20),
        plug("ivshmem-plain", id="iv", memdev="i"),
        plug("ivshmem-plain", id="iw", memdev="i"),
        destroy("i"),
        create("iothread", "io"),
        ("blockdev-add", {"driver": "null-co", "node-name": "n"}),
        plug("virtio-blk-pci", id="b", drive="n", iothread="io"),
        destroy("io"),
        create("throttle-group", "t"),
        ("blockdev-add", {"driver": "null-co", "node-name": "m"}),
        ("blockdev-add", {**THROTTLE, "file": "m"}),
        ("blockdev-add", {**THROTTLE, "throttle-group": "nope", "node-name": "to"}),
        destroy("t"),
        ("blockdev-del", {"node-name": "tn"}),
        destroy("t"),
        create("cryptodev-backend-builtin", "cb"),
        plug("virtio-crypto-pci", id="vc", cryptodev="cb"),
        plug("virtio-crypto-pci", id="vd", cryptodev="cb"),
        destroy("cb"),
    ],
)  # fmt: skip
RAM = "memory-backend-ram"
FILE = "memory-backend-file"
LIMITS: list[dict[str, int]] = [
    {"iops-total": 1, "iops-read": 1},
    {"bps-total": 1, "bps-write": 1},
    {"iops-total": -1},
    {"iops-total-max": 1},
    {"iops-total": 10, "iops-total-max": 1},
    {"iops-total": 10, "iops-total-max-length": 0},
    {"iops-total": 10, "iops-total-max-length": 5},
    {"iops-size": 10},
    {"bps-total": 10**16},
    {"iops-total": 10, "iops-total-max": 20, "iops-total-max-length": 5},
]
OBJECTS: Session = (
    ["-machine", "pc"],
    [
        create("secret", "s"),
        create("secret", "s", data="x", file="/etc/hostname"),
        create("secret", "s", data="!!!", format="base64"),
        create("secret", "s", data="a Gk=", format="base64"),
        create("secret", "s", file="/nope"),
        create("secret", "s", data="x", keyid="nope", iv="x"),
        create("secret", "s", data="aGk=", format="base64"),
        create("secret", "k", data="x", keyid="s", iv="x"),
        create(RAM, "m", size=0),
        create("memory-backend-memfd", "m", size=0),
        create(RAM, "m", size=1 << 20, policy="bind"),
        create(RAM, "m", size=1 << 20, host_nodes=[0]),
        create(RAM, "m", size=1 << 20, prealloc_threads=0),
        create(RAM, "m", size=1 << 20, reserve=False, prealloc=True),
        create("rng-random", "r", filename="/nope"),
        create("rng-random", "r", filename=""),
        create("rng-egd", "r", chardev="nope"),
        create("rng-random", "r"),
        create("iothread", "i", poll_max_ns=-1),
        create("iothread", "i", poll_grow=-1),
        create("iothread", "i", aio_max_batch=-1),
        create("iothread", "i", thread_pool_max=-1),
        create("iothread", "i", thread_pool_min=10, thread_pool_max=2),
        create("iothread", "i", thread_pool_max=0),
        create("iothread", "1x"),
        create("iothread", "a b"),
        *(create("throttle-group", f"t{index}", limits=one) for index, one in enumerate(LIMITS)),
        create(FILE, "f0", size=1 << 20, mem_path="ram"),
        create(FILE, "f1", size=1 << 20, mem_path="/nope/ram"),
        create(FILE, "f2", size=0, mem_path="empty"),
        create(FILE, "f4", size=1 << 20, mem_path="."),
        create(FILE, "f6", size=8192, mem_path="ram", readonly=True),
        FILES,
        destroy("f0"),
        FILES,
        "query-memdev",
    ],
)


def net(kind: str, **options: Any) -> Step:
    return "netdev_add", {"type": kind, "id": "n", **options}


def forwarding(rule: str) -> Step:
    return net("user", hostfwd=[{"str": rule}])


INET = {"type": "inet", "host": "127.0.0.1", "port": "1"}
NETDEVS: Session = (
    [],
    [
        forwarding("nonsense"),
        forwarding(""),
        forwarding("tcp:"),
        forwarding("xx::0-:22"),
        forwarding("tcp:300.0.0.1:0-:22"),
        forwarding("tcp:host:0-:22"),
        forwarding("tcp::99999-:22"),
        forwarding("tcp::port-:22"),
        forwarding("tcp::0"),
        forwarding("tcp::1-22"),
        forwarding("tcp::0-guest:22"),
        forwarding("udp::0-:x"),
        forwarding("tcp::0-:0"),
        net("user", ipv4=False, ipv6=False),
        net("tap", fd="zz"),
        net("tap", fds="a:b"),
        net("socket"),
        net("socket", fd="zz"),
        net("socket", listen=":0", connect=":1"),
        net("socket", udp="127.0.0.1:1"),
        net("socket", localaddr="127.0.0.1:1"),
        net("dgram"),
        net("dgram", local=INET),
        net("dgram", local={"type": "fd", "str": "zz"}),
        net("dgram", local={"type": "fd", "str": "zz"}, remote={"type": "fd", "str": "zz"}),
        net("dgram", remote={"type": "unix", "path": "x"}),
        net("vhost-user", chardev="nope"),
        net("hubport", hubid=0, netdev="nope"),
        net("vhost-vdpa"),
        ("netdev_add", {"type": "user", "id": "1x"}),
        ("netdev_add", {"type": "user", "id": "a b"}),
        ("netdev_del", {"id": "n"}),
    ],
)
# Older releases refuse these with other words.
TAKEN: Session = (
    IN_USE[0],
    [
        plug("virtconsole", id="v0", chardev="c"),
        plug("virtconsole", id="v1", chardev="c"),
        plug("pci-serial", id="v1", chardev="c"),
        add("x", "mux", chardev="d"),
        add("y", "mux", chardev="d"),
        net("tap", fd="zz", ifname="q"),
        net("tap", fd="zz", fds="a"),
        net("tap", fds="a", queues=2),
    ],
)
SESSIONS = {
    "chardevs": CHARDEVS,
    "rings": RINGS,
    "in use": IN_USE,
    "objects": OBJECTS,
    "netdevs": NETDEVS,
}


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
def test_backends(release: Release, release_qemu: str, tmp_path: Path, session: Session) -> None:
    assert_same(release, release_qemu, tmp_path, *session)


RESETS: list[Step] = [
    "query-kvm",
    ("set-vcpu-dirty-limit", {"dirty-rate": 1}),
    "system_reset",
    "query-status",
    "cont",
    "query-status",
    "stop",
    "system_reset",
    "query-status",
    "cont",
    "system_reset",
    "query-status",
    "cont",
]


@pytest.mark.slow
def test_a_reset_that_shuts_down(release: Release, release_qemu: str, tmp_path: Path) -> None:
    options = ["-machine", "pc", "-action", "reboot=shutdown,shutdown=pause"]
    assert_same(release, release_qemu, tmp_path, options, RESETS)


def memory(name: str, mebibytes: int) -> Step:
    return create(RAM, name, size=mebibytes << 20)


SHOWN: list[Step] = ["query-memory-devices", "query-memory-size-summary"]
MEMORY: dict[str, Session] = {
    "cold": (
        [
            "-m", "128,slots=3,maxmem=1G", "-machine", "pc,nvdimm=on",
            "-object", "memory-backend-ram,id=m,size=128M", "-device", "pc-dimm,id=d,memdev=m",
            "-object", "memory-backend-ram,id=n,size=64M", "-device", "nvdimm,id=nv,memdev=n",
        ],
        [
            *SHOWN,
            memory("v", 64),
            plug("virtio-mem-pci", id="vm", memdev="v", **{"requested-size": 4 << 20}),
            memory("o", 32),
            plug("pc-dimm", memdev="o", id="x"),
            *SHOWN,
            memory("p", 32),
            plug("pc-dimm", id="y", memdev="p"),
            plug("pc-dimm", id="y", memdev="p", slot=1),
            plug("pc-dimm", id="y", memdev="p", slot=7),
            plug("pc-dimm", id="y", memdev="nope"),
            *SHOWN,
        ],
    ),
    "hot": (
        ["-m", "128,slots=3,maxmem=1G", "-machine", "q35"],
        [
            memory("m", 2048),
            plug("pc-dimm", id="x", memdev="m"),
            memory("n", 64),
            plug("pc-dimm", memdev="n", slot=2),
            plug("pc-dimm", memdev="n"),
            plug("nvdimm", memdev="n"),
            memory("o", 64),
            plug("pc-dimm", id="d", memdev="o"),
            memory("p", 1),
            plug("pc-dimm", id="e", memdev="p"),
            plug("pc-dimm", id="e"),
            *SHOWN,
        ],
    ),
    "none": (
        ["-m", "128", "-machine", "pc"],
        [
            memory("m", 64),
            plug("pc-dimm", memdev="m"),
            plug("pc-dimm"),
            plug("nvdimm", memdev="m"),
            plug("virtio-mem-pci", memdev="m"),
            ("balloon", {"value": 1}),
            plug("virtio-balloon-pci", id="b"),
            ("balloon", {"value": 0}),
            ("balloon", {"value": -5}),
            *SHOWN,
        ],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("session", MEMORY)
def test_memory(release: Release, release_qemu: str, tmp_path: Path, session: str) -> None:
    assert_same(release, release_qemu, tmp_path, *MEMORY[session])


@pytest.mark.slow
def test_words_of_newer_releases(newest_qemu: str, tmp_path: Path) -> None:
    assert_same(NEWEST, newest_qemu, tmp_path, *TAKEN)
