"""The stand-in takes and refuses devices as each release of QEMU does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import RELEASES
from tests.conftest import qemu_programs
from tests.qemu.probe import Qemu

NET = "virtio-net-pci"
BLOCK = {"driver": "virtio-blk-pci", "drive": "n0", "share-rw": True}
NODE = {"driver": "null-co", "node-name": "n0"}

# Sessions of one machine each: its type, and the devices that are added.
SESSIONS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "drivers": (
        "pc",
        [
            {},
            {"driver": ""},
            {"driver": "nonsense", "bus": "nope"},
            {"driver": "memory-backend-ram"},
            {"driver": "device"},
            {"driver": "pci-device"},
            {"driver": "i440FX"},
            {"driver": "apic", "id": "a"},
            {"driver": "amd-iommu"},
            {"driver": "VGA", "id": "v"},
            {"driver": "virtio-blk"},
            {"driver": "virtio-net", "id": "alias"},
        ],
    ),
    "ids": (
        "pc",
        [
            {"driver": "e1000", "id": "e"},
            {"driver": "e1000", "id": "e"},
            {"driver": "e1000", "id": "e", "nonsense": 1},
            {"driver": "e1000", "id": "e", "bus": "nope"},
        ],
    ),
    "buses": (
        "pc",
        [
            {"driver": "scsi-hd", "drive": "x"},
            {"driver": "usb-kbd"},
            {"driver": "isa-serial"},
            {"driver": "ide-cd"},
            {"driver": NET, "bus": "pci.1"},
            {"driver": NET, "bus": ""},
            {"driver": NET, "bus": "/"},
            {"driver": NET, "bus": "isa.0"},
            {"driver": NET, "bus": "main-system-bus"},
            {"driver": NET, "bus": "pci.0"},
            {"driver": NET, "bus": "/i440FX-pcihost/pci.0"},
            {"driver": "virtio-scsi-pci", "id": "s"},
            {"driver": "scsi-hd"},
            {"driver": "scsi-hd", "bus": "s.0", "drive": "x"},
            {"driver": "scsi-hd", "bus": "s", "drive": "x"},
            {"driver": "scsi-hd", "bus": "pci.0"},
            {"driver": "e1000", "bus": "s.0"},
            {"driver": "virtio-serial-pci"},
            {"driver": "virtserialport", "id": "p"},
            {"driver": "virtserialport", "chardev": "nope"},
            {"driver": "qemu-xhci", "id": "x"},
            {"driver": "usb-kbd", "id": "k"},
            {"driver": "usb-tablet", "id": "t", "bus": "x.0"},
        ],
    ),
    "express": (
        "q35",
        [{"driver": "e1000"}, {"driver": "e1000", "bus": "pcie.0"}, {"driver": "usb-kbd"}],
    ),
    "none": ("none", [{"driver": "e1000"}, {"driver": "isa-serial"}, {"driver": "nonsense"}]),
    "booleans": (
        "pc",
        [
            {"driver": NET, "id": f"n{number}", "mq": value}
            for number, value in enumerate(json.loads('[true, "on", "true", "x", 1, null, [], {}]'))
        ],
    ),
    "integers": (
        "pc",
        [
            *(
                {"driver": NET, "vectors": value}
                for value in (3, "3", "x", -1, 1 << 32, True, 1.5, None)
            ),
            *({"driver": NET, "host_mtu": value} for value in (70000, -1)),
            *({"driver": NET, "bootindex": value} for value in (1 << 31, "1", -2)),
        ],
    ),
    "strings": (
        "pc",
        [
            *({"driver": NET, "mac": value} for value in ("x", "", "52:54:00:12:34", 5)),
            *({"driver": NET, "disable-legacy": one} for one in ("on", "x", "", True, 1)),
            *({"driver": NET, "addr": one} for one in ("x", "32", "1d", "1e.1", "1f.8", 300, True)),
            {"driver": NET, "netdev": "nope"},
            {"driver": NET, "netdev": 5},
            {"driver": NET, "host-mtu": 1500},
            {"driver": NET, "mq": "x", "nonsense": 1},
            {"driver": NET, "type": "x"},
            {"driver": NET, "hotplugged": True},
            {"driver": "virtio-rng-pci", "rng": "nope"},
            {"driver": "virtio-rng-pci", "max-bytes": "1k"},
        ],
    ),
    "drives": (
        "pc",
        [
            {"driver": "virtio-blk-pci"},
            {**BLOCK, "drive": "nope"},
            {**BLOCK, "iothread": "nope"},
            {**BLOCK, "iothread": 5},
            {**BLOCK, "werror": "x"},
            {**BLOCK, "logical_block_size": "512"},
            {**BLOCK, "num-queues": 70000},
            {**BLOCK, "share-rw": "on"},
        ],
    ),
}

OPTIONS = [
    "virtio-net-pci,mq=x",
    "virtio-net-pci,mq=",
    "virtio-net-pci,mq=yes",
    "virtio-net-pci,vectors=x",
    "virtio-net-pci,vectors=-1",
    "virtio-net-pci,vectors=0x3",
    "virtio-net-pci,vectors=4294967296",
    "virtio-net-pci,host_mtu=70000",
    "virtio-net-pci,mac=x",
    "virtio-net-pci,disable-legacy=x",
    "virtio-net-pci,disable_legacy=on",
    "virtio-net-pci,addr=40",
    "virtio-net-pci,addr=3.9",
    "virtio-net-pci,netdev=x",
    "virtio-net-pci,mq=x,nonsense=1",
    "virtio-net-pci,bus=x",
    "virtio-net-pci,bus=isa.0",
    "virtio-net-pci,id=-x",
    "nonsense,bus=x",
    "virtio-blk",
    "scsi-hd",
    "isa-serial,chardev=x",
    "isa-serial",
    "virtio-rng-pci,rng=x",
    "virtio-rng-pci,max-bytes=1k",
    "virtio-blk-pci,werror=x",
    "virtio-blk-pci,logical_block_size=x",
    "pci-bridge",
    "pci-device",
    "memory-backend-ram",
    "VGA,vgamem_mb=x",
    "tpm-tis,tpmdev=x",
    "virtio-net-pci,type=x",
    '{"driver":"virtio-net-pci","mq":"on"}',
]


@pytest.fixture(params=RELEASES)
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A QEMU, and a stand-in of its release."""
    qemu = qemu_programs().get(request.param)
    if qemu is None:
        pytest.skip(f"{request.param} is not here; .ci/qemu brings releases")
    link = tmp_path / "qemu-system-x86_64"
    link.symlink_to(Path(sys.executable).parent / "qmpserver")
    link.with_name(f"{link.name}.toml").write_text(f'schema = "{request.param}"\n')
    return {"qemu": qemu, "stand-in": str(link)}


def said(program: str, machine: str, devices: list[dict[str, Any]]) -> list[Any]:
    """Return what a program says to each device; a new one each time a device was added."""
    qemu = Qemu(program, ["-machine", machine, "-accel", "tcg", "-nodefaults", "-S"])
    try:
        qemu.execute("blockdev-add", NODE)
        replies = [qemu.execute("device_add", device) for device in devices]
    finally:
        qemu.close()
    return [reply["error"]["desc"] if "error" in reply else reply for reply in replies]


@pytest.mark.parametrize("name", SESSIONS)
def test_commands(programs: dict[str, str], name: str) -> None:
    machine, devices = SESSIONS[name]
    replies = [said(program, machine, devices) for program in programs.values()]
    for device, expected, got in zip(devices, *replies, strict=True):
        assert got == expected, device


@pytest.mark.parametrize("option", OPTIONS)
def test_options(programs: dict[str, str], option: str) -> None:
    options = ["-accel", "tcg", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"]
    words = []
    for program in programs.values():
        ran = subprocess.run(
            [program, *options, "-device", option],
            input=b'{"execute": "qmp_capabilities"}{"execute": "quit"}',
            capture_output=True,
            check=False,
        )
        line = ran.stderr.decode().partition("\n")[0].partition(": ")[2]
        words.append((ran.returncode, line if ran.returncode else ""))
    assert words[1] == words[0]
