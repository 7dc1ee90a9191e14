"""A stand-in that is called as QEMU takes and refuses command lines as QEMU does."""

from __future__ import annotations

import re
import shlex
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

from qmpserver.releases import NEWEST, Release
from tests.qemu.probe import link_to_stand_in

if TYPE_CHECKING:
    from pathlib import Path

NAME = "qemu-system-x86_64"
PATIENCE = 60
CLUSTER = 64 << 10
NO_ERRORS = ("warning:", "failed to initialize module")  # the latter is about how QEMU is installed

# DIR stands for a directory with files.
STARTED = """
-machine none
-machine pc -usb -device usb-tablet,id=t
-machine pc,usb=off -usb -device usb-tablet
-machine pc,usb=on -device usb-tablet,bus=usb-bus.0
-machine q35,usb=on -device usb-tablet,bus=usb-bus.0
-machine q35 -usbdevice tablet -usbdevice mouse -device usb-kbd
-machine microvm -usbdevice wacom-tablet
-machine q35 -device ich9-usb-ehci1,id=u -device ich9-usb-uhci1,masterbus=u.0,firstport=0
-chardev stdio,mux=on,id=c -mon chardev=c,mode=readline -serial chardev:c
-chardev socket,id=m,path=DIR/m,server=on,wait=off,mux=on -mon m -device isa-serial,chardev=m
-chardev socket,id=l,path=DIR/l,server=on,wait=off,logfile=DIR/log,logappend=on -mon l
-chardev vc,id=c -mon c
-object memory-backend-ram,id=m,size=256M,host-nodes=0,policy=bind
-object memory-backend-ram,size=8M,id=m,size=16M,host-nodes=0-0,host-nodes=0,policy=bind,share
-nic user -nic user
-net user -net nic -net nic,model=virtio,macaddr=52:54:00:00:00:01 -net none
-net nic,netdev=n,model=e1000,vectors=2 -netdev user,id=n -run-with chroot=/
-virtfs local,path=/,security_model=none,mount_tag=t -fsdev synth,id=s
-nic user,model=virtio -nic model=virtio
-nic user,model=nope
-machine q35 -nic user,model=virtio
-machine microvm -nic user
-blockdev driver=qcow2,file.driver=file,file.filename=DIR/disk.qcow2,node-name=q,backing=
-machine q35 -device pxb-pcie -device pxb-pcie,bus_nr=0x80,bus=pcie.0
-machine q35 -drive if=floppy,file=DIR/disk.raw,format=raw,readonly=on -drive if=floppy
-machine q35 -fda DIR/floppy.raw
-machine microvm -drive file=DIR/disk.raw,format=raw,readonly=on
-machine none -drive file=DIR/disk.raw,format=raw,readonly=on
-chardev pty,id=c -mon c,mode=control
-trace enable=foo -trace file=DIR/trace
-m 0
-m maxmem=2G,slots=1
-m 1G,slots=256,maxmem=2G
-rtc base=utc,driftfix=slew -sandbox on,obsolete=deny -overcommit mem-lock=off -icount 3
-win2k-hack
-smp 2,sockets=2,cores=2,maxcpus=4 -smp maxcpus=4
-smp 6,maxcpus=8,threads=2
-cpu qemu64,+sse4_1,-sse4.2,sse4-2=on,hv_relaxed,check,enforce=off
-cpu max,pmu=off,migratable=no
-machine q35,hpet=off,kernel_irqchip=split,smp.cpus=2,type=q35
-machine microvm -cpu base
-display none,gl=off -vga virtio
-parallel null -parallel null -parallel null -parallel none
-boot strict=on,menu=on,order=cdn,once=d
-boot splash-time=5,reboot-timeout=-1
-machine microvm -boot abcdp
-debugcon null
DIR/floppy.raw
"""

GLOBAL = "can't apply global qemu64-x86_64-cpu."
MEMORY = "-object memory-backend-ram,id=m,size=8M,host-nodes="
# With the words of the newest release, after its name.
REFUSED = {
    "-machine pc,usb=x": "Parameter 'usb' expects 'on' or 'off'",
    "-machine q35 -usb -machine usb=off -device usb-kbd": (
        "-device usb-kbd: No 'usb-bus' bus found for device 'usb-kbd'"
    ),
    "-machine q35,usb=on -device usb-kbd,bus=usb-bus.1": (
        "-device usb-kbd,bus=usb-bus.1: Bus 'usb-bus.1' not found"
    ),
    "-machine isapc -usbdevice mouse": (
        "-usbdevice mouse: Error: no usb bus to attach usbdevice mouse, please try -machine usb=on"
        " and check that the machine model supports USB"
    ),
    "-chardev null,mux=x,id=c": "-chardev null,mux=x,id=c: Parameter 'mux' expects 'on' or 'off'",
    **{
        f"{option}=9": f"{option}=9: Parameter 'id' expects an identifier"
        for option in (
            "-object iothread,id",
            "-netdev user,id",
            "-nic user,id",
            "-device e1000,id",
            "-chardev null,id",
            "-drive if=none,id",
            "-tpmdev emulator,chardev=c,id",
        )
    },
    **{
        MEMORY + nodes: f"{MEMORY}{nodes}: Parameter 'host-nodes' expects a uint64 value or range"
        for nodes in ("x", "1-0", "0-", "0-70000")
    },
    f"{MEMORY}0,a.b=1": f"{MEMORY}0,a.b=1: Invalid parameter 'a.b'",
    "-nic user,addr=5": "-nic user,addr=5: Invalid parameter 'addr'",
    "-nic user,mac=x": "-nic user,mac=x: invalid syntax for ethernet address",
    "-machine pc -device pxb-pcie,bus_nr=8": (
        "-device pxb-pcie,bus_nr=8: pxb-pcie devices cannot reside on a PCI bus"
    ),
    **{
        f"-machine {machine} -drive if={interface}": (
            f"-drive if={interface}: machine type does not support if={interface},bus=0,unit=0"
        )
        for machine, interface in (
            ("pc", "scsi"),
            ("pc", "sd"),
            ("q35", "mtd"),
            ("microvm", "ide"),
            ("microvm", "floppy"),
        )
    },
    "-machine nope,foo=1": 'unsupported machine type: "nope"',
    "-machine pc,foo=1": "Property 'pc-i440fx-11.1-machine.foo' not found",
    "-machine pc,usb": "-machine pc,usb: Expected '=' after parameter 'usb'",
    "-cpu nope": "unable to find CPU model 'nope'",
    "-cpu qemu64,+nope": "Property 'qemu64-x86_64-cpu.nope' not found",
    "-cpu qemu64,=x": f"{GLOBAL}=x: Property 'qemu64-x86_64-cpu.' not found",
    "-cpu qemu64,nope": f"{GLOBAL}nope=on: Property 'qemu64-x86_64-cpu.nope' not found",
    "-cpu qemu64,sse=x": f"{GLOBAL}sse=x: Parameter 'sse' expects 'on' or 'off'",
    "-smp x": "Parameter 'smp.cpus' expects integer",
    "-smp 4,foo=1": "Parameter 'smp.foo' is unexpected",
    "-smp 4,clusters=2": "clusters > 1 not supported by this machine's CPU topology",
    "-smp 2,maxcpus=1": (
        "Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (1) * dies (1)"
        " * modules (1) * cores (1) * threads (1) == maxcpus (1) < smp_cpus (2)"
    ),
    "-smp 2,sockets=3": (
        "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (3) * dies (1)"
        " * modules (1) * cores (0) * threads (1) != maxcpus (2)"
    ),
    "-smp 1,maxcpus=300": (
        "Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-i440fx-11.1' is 255"
    ),
    "-vga nope": "unknown vga type: nope",
    "-display nope": "-display nope: Parameter 'type' does not accept value 'nope'",
    "-m 1G,slots=2": "slots specified but no max-size",
    "-m 1G,slots=257,maxmem=2G": "unsupported amount of memory slots: 257",
    "-m 1G,slots=x,maxmem=2G": "-m 1G,slots=x,maxmem=2G: Parameter 'slots' expects a number",
    "-m 1G,maxmem=512M": (
        "invalid value of maxmem: maximum memory size (0x20000000) must be at least the initial"
        " memory size (0x40000000)"
    ),
    "-m 1G,slots=2,maxmem=1G": (
        "invalid value of maxmem: memory slots were specified but maximum memory size (0x40000000)"
        " is equal to the initial memory size (0x40000000)"
    ),
    "-parallel null -parallel null -parallel null -parallel null": (
        "-parallel null: too many parallel ports"
    ),
    "-boot q": "Invalid boot device 'q'",
    "-boot cc": "Boot device 'c' was given twice",
    "-boot abcd": "Too many boot devices for PC",
    "-boot once=e": "Invalid boot device for PC: 'e'",
    "-boot foo=1": "Parameter 'boot.foo' is unexpected",
    "-boot menu=x": "Parameter 'boot.menu' expects 'on' or 'off'",
    "-boot reboot-timeout=x": "Parameter 'boot.reboot-timeout' expects integer",
    "-boot reboot-timeout=-2": (
        "reboot timeout is invalid,it should be a value between -1 and 65535"
    ),
    "-boot splash-time=100000": ("splash-time is invalid,it should be a value between 0 and 65535"),
    "-debugcon nope": "-debugcon nope: 'nope' is not a valid char driver",
    "-debugcon none": "-debugcon none: 'none' is not a valid char driver",
    "-debugcon chardev:x": "-debugcon chardev:x: invalid character backend 'chardev:x'",
    "-chardev null,id=x -debugcon chardev:x": (
        "-debugcon chardev:x: Property 'isa-debugcon.chardev' can't find value 'debugcon'"
    ),
    "-debugcon null -debugcon null": (
        "-debugcon null: attempt to add duplicate property 'debugcon' to object (type 'container')"
    ),
    "-machine none -debugcon null": (
        "-debugcon null: No 'ISA' bus found for device 'isa-debugcon'"
    ),
    "-rtc foo=1": "-rtc foo=1: Invalid parameter 'foo'",
    "-trace bar=x": "-trace bar=x: Invalid parameter 'bar'",
    "-": "-: invalid option",
    "-mon c": '-mon c: chardev "c" not found',
    "-serial nope": "-serial nope: 'nope' is not a valid char driver",
    "-serial chardev:nope": (
        "-serial chardev:nope: could not connect serial device to character backend 'chardev:nope'"
    ),
    "-usbdevice kbd": "-usbdevice kbd: could not add USB device 'kbd'",
    "-nonsense": "-nonsense: invalid option",
    "-soundhw hda": "-soundhw: invalid option",
    "-no-acpi": "-no-acpi: invalid option",
    "-virtfs local,path=/": ("-virtfs local,path=/: Usage: -virtfs fsdriver,mount_tag=tag"),
    **{
        line: f"{line}: {words}"
        for line, words in (
            ("-fsdev local,path=/,security_model=none", "fsdev: No id specified"),
            ("-fsdev nope,id=x", "fsdev: fsdriver nope not found"),
            ("-virtfs local,mount_tag=t,path=/", "security_model property not set"),
            ("-virtfs local,mount_tag=t,security_model=x", "invalid security_model property 'x'"),
            ("-virtfs local,mount_tag=t,security_model=none", "path property not set"),
        )
    },
    "-net nic,netdev=no": "-net nic,netdev=no: netdev 'no' not found",
    "-net nic,macaddr=x": "-net nic,macaddr=x: invalid syntax for ethernet address",
    "-net nic,foo=1": "-net nic,foo=1: Invalid parameter 'foo'",
    "-net nope": "-net nope: Parameter 'type' does not accept value 'nope'",
    "-net user,foo=1": "-net user,foo=1: Invalid parameter 'foo'",
}

LINES = [*STARTED.strip().splitlines(), *REFUSED]


class Outcome(NamedTuple):
    """Whether a program starts a machine, and the first line of its errors."""

    started: bool
    error: str


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with images."""
    for name in ("disk.raw", "floppy.raw"):  # one that is written to is locked
        (tmp_path / name).write_bytes(bytes(1 << 20))
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 20)
    head += struct.pack(">IIQQIIQ", 0, 1, 3 * CLUSTER, CLUSTER, 1, 0, 0)
    counts = struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0") + struct.pack(">4H", 1, 1, 1, 1)
    image = head.ljust(CLUSTER, b"\0") + counts
    (tmp_path / "disk.qcow2").write_bytes(image.ljust(4 * CLUSTER, b"\0"))
    return tmp_path


def stand_in(directory: Path, release: Release) -> str:
    """Return a link that is a stand-in of a release."""
    place = directory / release.name
    place.mkdir()
    return link_to_stand_in(release.name, place)


def outcome(program: str, line: str, directory: Path) -> Outcome:
    """Start a program with a command line, and end it as soon as it executes commands."""
    ours, its = socket.socketpair()
    with ours, its:
        ours.sendall(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
        monitor = f"-chardev socket,id=q,fd={its.fileno()} -mon q,mode=control"
        words = shlex.split(line.replace("DIR", str(directory)).replace('"', '\\"'))
        ran = subprocess.run(
            [program, *f"-accel tcg -display none -S {monitor}".split(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            pass_fds=[its.fileno()],
            check=False,
        )
    said = ran.stderr.replace(str(directory), "DIR").splitlines()
    prefix = f"{NAME}: "
    errors = [
        one
        for one in said
        if one.startswith(prefix) and not any(part in one.lower() for part in NO_ERRORS)
    ]
    return Outcome(ran.returncode == 0, "".join(errors[:1]).removeprefix(prefix))


def outcomes(program: str, directory: Path) -> dict[str, Outcome]:
    """Return the outcomes of all command lines."""
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda line: outcome(program, line, directory), LINES)
        return dict(zip(LINES, found, strict=True))


@pytest.mark.slow
def test_as_the_release(release: Release, release_qemu: str, directory: Path) -> None:
    ours = outcomes(stand_in(directory, release), directory)
    assert ours == outcomes(release_qemu, directory)


@pytest.mark.slow
def test_as_recorded(directory: Path) -> None:
    expected = {line: Outcome(line not in REFUSED, REFUSED.get(line, "")) for line in LINES}
    assert outcomes(stand_in(directory, NEWEST), directory) == expected


LISTS = (
    "-machine help",
    "-object help",
    "-device e1000,mac=x,help",
    "-netdev help",
    "-chardev help",
)


def listed(program: str, options: str) -> list[str]:
    """Return the names in a list that a program prints in place of running a machine."""
    command = [program, "-display", "none", *options.split()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return sorted(re.split("[ =]", line.strip())[0] for line in ran.stdout.splitlines()[1:])


@pytest.mark.parametrize("options", LISTS)
@pytest.mark.slow
def test_lists(release: Release, release_qemu: str, directory: Path, options: str) -> None:
    ours = listed(stand_in(directory, release), options)
    assert len(ours) > 3
    # What a QEMU can do depends on how it was built. -object knows one type by another name.
    assert set(listed(release_qemu, options)) - {"authz-list-file"} <= set(ours)


@pytest.mark.slow
def test_version(release: Release, directory: Path) -> None:
    command = [stand_in(directory, release), "-version"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout.split() == ["QEMU", "emulator", "version", release.version]
