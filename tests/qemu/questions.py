"""Questions about state that only a stand-in has, and a program's answers to them.

`recorded/` has the answers of each release; `tests.qemu.record` writes them.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from qmpserver.standin.human import COMMANDS
from qmpserver.standin.humaninfo import INFO
from tests.qemu.probe import Qemu

RECORDED = Path(__file__).parent / "recorded"

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
    "system": (
        "q35",
        [
            {"driver": one}
            for one in ("vmcoreinfo", "vmgenid", "ramfb", "intel-iommu", "vmbus-bridge")
        ],
    ),
    "memory": (
        "pc",
        [
            {"driver": "pc-dimm", "memdev": "nope"},
            {"driver": "pc-dimm", "memdev": "nope", "addr": 4294967296},
        ],
    ),
    "numbers": ("pc", [{"driver": NET, "vectors": "1" * 5000}, {"driver": NET, "vectors": "-0"}]),
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
    "intel-iommu",
    "ramfb",
    "vmgenid",
    "vmcoreinfo",
    "virtio-net-pci,vectors=-0",
    '{"driver":"virtio-net-pci","mq":"on"}',
]

RNG = "virtio-rng-pci"
# Sessions about PCI addresses: options, and the devices that are added.
ADDRESSES: list[tuple[str, list[dict[str, Any]]]] = [
    ("-machine pc", []),
    ("-machine q35", []),
    ("-machine pc -device e1000,addr=1", []),
    (f"-machine pc -device {RNG},addr=1.5,id=a -device {RNG},addr=1.5", []),
    (f"-machine pc -device {RNG},addr=5 -device {RNG},addr=5.1", []),
    (f"-machine pc -device {RNG},addr=5.1 -device {RNG},addr=5", []),
    (f"-machine pc -device {RNG},addr=5.1 -device {RNG},addr=5,multifunction=on", []),
    ("-machine pc" + f" -device {RNG}" * 30, [{"driver": RNG}]),
    (
        f"-machine pc -device {RNG},id=a",
        [
            {"driver": RNG, "addr": "2"},
            {"driver": RNG, "addr": "2.1"},
            {"driver": RNG, "addr": 33},
            {"driver": RNG, "addr": "9.1"},
            {"driver": RNG, "addr": "9"},
            {"driver": RNG, "addr": "1f"},
            {"driver": RNG},
        ],
    ),
    (
        "-machine q35 -device pcie-root-port,id=p,chassis=1 -device pcie-root-port,id=q,chassis=2"
        f" -device pcie-pci-bridge,id=b,bus=p -device {RNG},addr=5.0,multifunction=on"
        f" -device {RNG},addr=5.2",
        [
            {"driver": RNG, "bus": "q", "id": "first"},
            {"driver": RNG, "bus": "q"},
            {"driver": RNG, "bus": "q", "addr": "1"},
            {"driver": RNG, "bus": "b", "addr": "3"},
            {"driver": RNG, "bus": "b", "addr": "3"},
        ],
    ),
    (
        "-machine q35 -blockdev null-co,node-name=n -device virtio-blk-pci,drive=n,id=v"
        " -device nvme,serial=s -device virtio-scsi-pci -device qemu-xhci -device VGA"
        " -device i6300esb -device virtio-balloon-pci -device ich9-intel-hda",
        [],
    ),
]

# What a human monitor is asked on a machine.
MACHINE = """
-machine q35 -accel tcg -S -nodefaults -smp 1,maxcpus=2 -m 128M -name vm
-object iothread,id=io0 -object memory-backend-ram,id=m0,size=64M
-blockdev null-co,node-name=n0,size=1048576 -drive file=IMAGE,format=raw,if=none,id=d0
-drive if=none,id=cd0,media=cdrom -device virtio-blk-pci,drive=d0,id=vda
-device ide-cd,drive=cd0,id=cd
-device virtio-balloon-pci,id=b -netdev user,id=net0 -chardev null,id=c0 -chardev ringbuf,id=rb
-device pcie-root-port,id=rp,chassis=1
"""
LINES = """
info block
info block d0
info block n0
info block nope
info blockstats
info block-jobs
info iothreads
info hotpluggable-cpus
info memory_size_summary
info name
info status
info cpus
info migrate_capabilities
device_add e1000,id=x,bus=rp
device_add nonsense
device_add e1000,foo=1
device_add
device_del nope
device_del
netdev_add foo,id=a
netdev_del nope
object_add iothread,id=i2
object_add foo,id=i3
object_del i2
object_del i2
chardev-add null,id=c1
chardev-remove c1
chardev-remove c1
balloon x
system_wakeup
qom-list /nope
qom-get /machine/peripheral/vda nope
qom-get /machine/peripheral/vda bootindex
drive_add dummy file=IMAGE,if=none,id=d9,read-only=on
info block d9
qom-get /machine/peripheral/vda bootindex
qom-get /machine/peripheral/vda werror
stop
info status
""".strip().splitlines()
LINES += [f"help {one.name}" for one in COMMANDS] + [f"help info {one.name}" for one in INFO]
# What each of them chooses.
DIFFERENT = [(r"thread_id=\d+", "thread_id=N"), (r"#block\d+", "#block"), (r" model=\w+", "")]


def answers(program: str) -> dict[str, Any]:
    """Return the answers of a program that is called as QEMU."""
    return {
        "devices": {name: _devices(program, *session) for name, session in SESSIONS.items()},
        "options": {option: _option(program, option) for option in OPTIONS},
        "addresses": [_addresses(program, *session) for session in ADDRESSES],
        "human": _lines(program),
    }


def _devices(program: str, machine: str, devices: list[dict[str, Any]]) -> list[Any]:
    """Return what a program says to each device."""
    qemu = Qemu(program, ["-machine", machine, "-accel", "tcg", "-nodefaults", "-S"])
    try:
        qemu.execute("blockdev-add", NODE)
        replies = [qemu.execute("device_add", device) for device in devices]
    finally:
        qemu.close()
    return [reply["error"]["desc"] if "error" in reply else reply for reply in replies]


def _option(program: str, option: str) -> str:
    """Return why a device is refused on the command line; nothing if it is taken."""
    words = ["-accel", "tcg", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"]
    ran = subprocess.run(
        [program, *words, "-device", option],
        input=b'{"execute": "qmp_capabilities"}{"execute": "quit"}',
        capture_output=True,
        check=False,
    )
    line = ran.stderr.decode().partition("\n")[0].partition(": ")[2]
    return line if ran.returncode else ""


def _addresses(program: str, options: str, devices: list[dict[str, Any]]) -> Any:
    """Return why a program refuses options; or what it says to each device, and `query-pci`."""
    words = ["-accel", "tcg", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"]
    commands = [{"execute": "device_add", "arguments": one} for one in devices]
    sent = [{"execute": "qmp_capabilities"}, *commands, {"execute": "query-pci"}]
    ran = subprocess.run(
        [program, *words, *options.split()],
        input="".join(map(json.dumps, [*sent, {"execute": "quit"}])),
        capture_output=True,
        check=False,
        text=True,
    )
    if ran.returncode:
        return ran.stderr.partition(": ")[2]
    _, _, *said, _ = filter(
        lambda one: "event" not in one, map(json.loads, ran.stdout.splitlines())
    )
    return [one["error"]["desc"] if "error" in one else one["return"] for one in said]


def _lines(program: str) -> dict[str, str]:
    """Return what a human monitor shows for each line."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        image = Path(place, "image")
        image.write_bytes(bytes(1 << 20))
        qemu = Qemu(program, MACHINE.replace("IMAGE", str(image)).split())
        try:
            for line in LINES:
                command = {"command-line": line.replace("IMAGE", str(image))}
                text = qemu.execute("human-monitor-command", command)["return"]
                for pattern, same in DIFFERENT:
                    text = re.sub(pattern, same, text)
                found[line] = text.replace(str(image), "IMAGE")
        finally:
            qemu.close()
    return found
