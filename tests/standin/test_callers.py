"""Programs that start QEMU themselves get a stand-in: their options, and their first commands.

The options are those that kata's runtime and Incus pass on x86-64, with other names and paths.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import kill

PATIENCE = 30.0
PROGRAM = Path(sys.executable).parent / "qmpserver"

KATA = """
-qmp unix:fd={qmp},server=on,wait=off
-name sandbox-1,debug-threads=on -uuid 00000000-0000-0000-0000-000000000001
-machine q35,accel=kvm,nvdimm=on -cpu host,pmu=off -m 2048M,slots=10,maxmem=16G
-device pci-bridge,bus=pcie.0,id=pci-bridge-0,chassis_nr=1,shpc=off,addr=2,io-reserve=4k
-device virtio-serial-pci,disable-modern=false,id=serial0
-device virtconsole,chardev=charconsole0,id=console0
-chardev socket,id=charconsole0,path=console.sock,server=on,wait=off
-device nvdimm,id=nv0,memdev=mem0,unarmed=on
-object memory-backend-file,id=mem0,mem-path=kata.img,size=268435456,readonly=on
-device virtio-scsi-pci,id=scsi0,disable-modern=false
-object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0
-device vhost-vsock-pci,disable-modern=false,vhostfd={file},id=vsock-7,guest-cid=7
-chardev socket,id=char-fs,path=vhost-fs.sock
-device vhost-user-fs-pci,chardev=char-fs,tag=kataShared,queue-size=1024
-netdev tap,id=network-0,vhost=on,vhostfds={file},fds={file}
-device driver=virtio-net-pci,netdev=network-0,mac=02:00:00:00:00:01,mq=on,vectors=4
-rtc base=utc,driftfix=slew,clock=host -global kvm-pit.lost_tick_policy=discard -vga none
-no-user-config -nodefaults -nographic --no-reboot
-object memory-backend-file,id=dimm1,size=2048M,mem-path=/dev/shm,share=on
-numa node,memdev=dimm1 -kernel vmlinux -append quiet -pidfile pid -D qemu.log
-smp 1,cores=1,threads=1,sockets=4,maxcpus=4
"""
KATA_COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("qmp_capabilities", {}),
    ("query-cpus-fast", {}),
    ("query-hotpluggable-cpus", {}),
    (
        "device_add",
        {
            "driver": "host-x86_64-cpu",
            "id": "cpu-1",
            "socket-id": 1,
            "die-id": 0,
            "core-id": 0,
            "thread-id": 0,
        },
    ),
    ("query-memory-devices", {}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 134217728}),
    ("device_add", {"driver": "pc-dimm", "id": "dimm-mem1", "memdev": "mem1"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "drive-1"}),
    (
        "device_add",
        {
            "driver": "virtio-blk-pci",
            "id": "virtio-drive-1",
            "drive": "drive-1",
            "bus": "pci-bridge-0",
            "addr": "1",
            "share-rw": True,
        },
    ),
    ("device_del", {"id": "virtio-drive-1"}),
    ("stop", {}),
    ("cont", {}),
    ("quit", {}),
]

INCUS = """
-S -name vm -uuid 00000000-0000-0000-0000-000000000002 -daemonize -cpu host,hv_passthrough
-nographic -serial chardev:console -nodefaults -no-user-config
-sandbox on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny
-readconfig qemu.conf -spice unix=on,disable-ticketing=on,addr=spice.sock -pidfile pid -D qemu.log
-smbios type=2,manufacturer=LinuxContainers,product=Incus -run-with user=nobody
"""
INCUS_CONFIG = """\
# Machine
[machine]
graphics = "off"
type = "q35"
accel = "kvm"
usb = "off"

[global]
driver = "ICH9-LPC"
property = "disable_s3"
value = "1"

[boot-opts]
strict = "on"

[memory]
size = "1024M"
slots = "16"
maxmem = "15506M"

[smp-opts]
cpus = "1"
maxcpus = "4"

[object "mem0"]
qom-type = "memory-backend-memfd"
size = "1024M"
share = "on"

[numa]
type = "node"
nodeid = "0"
memdev = "mem0"

[drive]
file = "/dev/fd/4"
if = "pflash"
format = "raw"
unit = "1"

[chardev "monitor"]
backend = "socket"
path = "qemu.monitor"
server = "on"
wait = "off"

[mon]
chardev = "monitor"
mode = "control"

[chardev "console"]
backend = "ringbuf"
size = "1048576"

[device "qemu_pcie0"]
driver = "pcie-root-port"
bus = "pcie.0"
addr = "1.0"
chassis = "0"
multifunction = "on"

[device "qemu_pcie1"]
driver = "pcie-root-port"
bus = "pcie.0"
addr = "1.1"
chassis = "1"

[device "qemu_balloon"]
driver = "virtio-balloon-pci"
bus = "qemu_pcie0"
addr = "00.0"
multifunction = "on"

[object "qemu_rng"]
qom-type = "rng-random"
filename = "/dev/urandom"

[device "dev-qemu_rng"]
driver = "virtio-rng-pci"
bus = "qemu_pcie0"
addr = "00.1"
rng = "qemu_rng"
"""
INCUS_COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("qmp_capabilities", {}),
    ("query-status", {}),
    ("query-cpus-fast", {}),
    ("query-hotpluggable-cpus", {}),
    ("netdev_add", {"type": "user", "id": "dev-eth0"}),
    (
        "device_add",
        {
            "driver": "virtio-net-pci",
            "id": "dev-eth0",
            "netdev": "dev-eth0",
            "mac": "02:00:00:00:00:01",
            "bus": "qemu_pcie1",
            "addr": "00.0",
            "bootindex": 1,
        },
    ),
    ("system_reset", {}),
    ("set-action", {"shutdown": "poweroff", "reboot": "shutdown", "panic": "pause"}),
    ("cont", {}),
    ("ringbuf-read", {"device": "console", "size": 65536, "format": "utf8"}),
    ("qom-get", {"path": "/machine/peripheral/qemu_balloon", "property": "guest-stats"}),
    ("query-balloon", {}),
    ("quit", {}),
]


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A stand-in that is called as QEMU."""
    made = tmp_path / "qemu-system-x86_64"
    made.symlink_to(PROGRAM)
    return made


@contextlib.contextmanager
def ending(directory: Path) -> Iterator[None]:
    """End the process of a pidfile after the block, if it has not ended."""
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it is being written
            kill(directory / "pid")


def replies(path: Path, commands: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return what commands returned, by name, and fail at an error."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        lines = client.makefile("rwb", buffering=0)
        assert "QMP" in json.loads(lines.readline())
        found = {}
        for command, arguments in commands:
            lines.write(json.dumps({"execute": command, "arguments": arguments}).encode())
            while "event" in (message := json.loads(lines.readline())):
                pass
            assert "return" in message, (command, message)
            found[command] = message["return"]
        return found


def test_kata_starts_a_stand_in(link: Path) -> None:
    """It passes a listening socket on, and files for the network."""
    directory = link.parent
    with socket.socket(socket.AF_UNIX) as listener, open(os.devnull) as null:
        listener.bind(str(directory / "qmp.sock"))
        listener.listen()
        options = KATA.format(qmp=listener.fileno(), file=null.fileno()).split()
        started = subprocess.Popen(
            [link, *options],
            cwd=directory,
            pass_fds=(listener.fileno(), null.fileno()),
            stderr=subprocess.PIPE,
        )
    with started:
        try:
            found = replies(directory / "qmp.sock", KATA_COMMANDS)
        except BaseException:
            started.kill()
            raise
        assert started.stderr is not None
        assert (started.wait(PATIENCE), started.stderr.read()) == (0, b"")
    assert len(found["query-hotpluggable-cpus"]) == 4


def test_incus_starts_a_stand_in(link: Path) -> None:
    """Its options are mostly in a file, and the program goes into the background."""
    directory = link.parent
    (directory / "qemu.conf").write_text(INCUS_CONFIG)
    with ending(directory):
        subprocess.run([link, *INCUS.split()], cwd=directory, check=True, timeout=PATIENCE)
        found = replies(directory / "qemu.monitor", INCUS_COMMANDS)
    assert found["query-status"]["status"] == "prelaunch"
    assert len(found["query-hotpluggable-cpus"]) == 4
