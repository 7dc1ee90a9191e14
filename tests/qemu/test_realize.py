"""What a stand-in and QEMU refuse on the command line, one device after the other."""

import subprocess
from pathlib import Path

import pytest

from qmpserver.releases import Release
from tests.qemu.probe import link_to_stand_in

NODES = "-blockdev null-co,node-name=n -blockdev null-co,node-name=m"
SCSI = f"{NODES} -device virtio-scsi-pci"
LINES = """
pc -device virtio-blk-pci,num-queues=0
pc NODES -device virtio-blk-pci,drive=n,num-queues=0
pc NODES -device virtio-blk-pci,drive=n,queue-size=2
pc NODES -device virtio-blk-pci,drive=n,queue-size=3
pc NODES -device virtio-blk-pci,drive=n,queue-size=2048
pc NODES -device virtio-blk-pci,drive=n,logical_block_size=513
pc -device virtio-blk-pci,logical_block_size=513
pc NODES -device virtio-blk-pci,drive=n,logical_block_size=4096,physical_block_size=512
pc NODES -device virtio-blk-pci,drive=n,logical_block_size=4096,physical_block_size=4096
pc NODES -device virtio-blk-pci,drive=n,bootindex=1 -device e1000,bootindex=1
pc -device e1000,bootindex=-1 -device e1000,bootindex=-1
pc -device virtio-scsi-pci,num_queues=0
pc -device virtio-scsi-pci,num_queues=1025
pc SCSI -device scsi-hd,drive=n,lun=1,id=q -device scsi-hd,drive=m,lun=1,scsi-id=0
pc SCSI -device scsi-hd,drive=n,lun=1,scsi-id=3,id=q -device scsi-hd,drive=m,lun=1,scsi-id=3
pc SCSI -device scsi-hd,drive=n,lun=1,scsi-id=3,id=q -device scsi-hd,drive=m,scsi-id=3
pc SCSI -device scsi-hd,drive=n,lun=1 -device scsi-hd,drive=m,lun=1
pc SCSI -device scsi-hd,drive=n,channel=1
pc -device virtio-scsi-pci NODES -device scsi-hd,drive=n,lun=16384
pc -device virtio-scsi-pci NODES -device scsi-hd,drive=n,scsi-id=300
pc -device lsi NODES -device scsi-hd,drive=n,lun=1
pc NODES -device nvme,drive=n
pc -device virtio-net-pci,rx_queue_size=128
pc -device virtio-net-pci,rx_queue_size=1024
pc -device virtio-net-pci,tx_queue_size=512
pc -device virtio-net-pci,speed=-5
pc -device virtio-net-pci,duplex=x
pc -device virtio-net-pci,duplex=half,speed=10
pc -device virtio-rng-pci,max-bytes=0
pc -device virtio-rng-pci,period=0
pc -device virtio-rng-pci,max-bytes=5
pc -device virtio-serial-pci,max_ports=0
pc -device virtio-serial-pci,max_ports=2 -device virtserialport,nr=5
pc -device virtio-serial-pci -device virtserialport,nr=0
pc -device virtio-serial-pci -device virtserialport,nr=1 -device virtserialport,nr=1
pc -device virtio-serial-pci -device virtserialport,name=a -device virtserialport,name=a
pc -device virtio-balloon-pci -device virtio-balloon-pci
pc -device vmgenid -device vmgenid
pc -device virtio-vga,max_outputs=99
pc -device ide-cd -device ide-cd
pc -device ide-cd -device ide-cd -device ide-cd
pc -device ide-cd,unit=0,bus=ide.0 -device ide-cd,unit=0,bus=ide.0
pc -device ide-cd,unit=2
q35 -device ide-cd,bus=ide.0 -device ide-cd,bus=ide.1
q35 -device ide-cd -device ide-cd
q35 -device ide-cd,unit=1
q35 -device ich9-ahci,id=a -device ide-cd,bus=a.3 -device ide-cd,bus=a.3
q35 -device pcie-root-port -device ioh3420
q35 -device pcie-root-port,chassis=1,slot=2 -device pcie-root-port,chassis=1,slot=2
q35 -device pcie-root-port,chassis=1 -device pcie-root-port,chassis=2
pc -device pci-bridge
pc -device scsi-hd
pc -device virtio-scsi-pci -device scsi-hd,lun=1
pc -device isa-serial,index=1
pc -device ivshmem-plain,master=on
""".strip().splitlines()
# Lines that an old release answers otherwise; a stand-in has the words of the newer ones.
OTHERWISE = {
    "qemu-7.2": ("logical_block_size=513", "max-bytes=0"),
    "qemu-10.0": (),
    "qemu-11.1": (),
}
QUIT = '{"execute": "qmp_capabilities"}{"execute": "quit"}'


def refusals(program: str) -> dict[str, str]:
    """Return the last line that a program prints for each command line; "" if it starts."""
    found = {}
    for line in LINES:
        words = ["-accel", "tcg", "-nodefaults", "-S", "-display", "none", "-qmp", "stdio"]
        words += ["-machine", *line.replace("NODES", NODES).replace("SCSI", SCSI).split()]
        ran = subprocess.run(
            [program, *words], input=QUIT, capture_output=True, text=True, check=False
        )
        lines = ran.stderr.strip().splitlines() if ran.returncode else []
        found[line] = lines[-1].partition(": ")[2] if lines else ""
    return found


@pytest.mark.slow
def test_devices_are_refused_alike(release: Release, release_qemu: str, tmp_path: Path) -> None:
    link = link_to_stand_in(release.name, tmp_path)
    got, expected = refusals(link), refusals(release_qemu)
    compared = [one for one in LINES if not one.endswith(OTHERWISE[release.name])]
    differences = [f"{a}\n  {got[a]}\n  {expected[a]}" for a in compared if got[a] != expected[a]]
    assert not differences, "\n" + "\n".join(differences)
