"""The stand-in's human monitor shows its state as each release of QEMU does."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import RELEASES
from tests.conftest import qemu_programs
from tests.qemu.probe import Qemu

OPTIONS = """
-machine q35 -accel tcg -S -nodefaults -smp 1,maxcpus=2 -m 128M,slots=2,maxmem=1G -name vm
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
stop
info status
""".strip().splitlines()
# What each of them chooses.
DIFFERENT = [(r"thread_id=\d+", "thread_id=N"), (r"#block\d+", "#block"), (r" model=\w+", "")]


def shown(program: str, image: Path) -> dict[str, Any]:
    """Return what a program shows for each line."""
    qemu = Qemu(program, OPTIONS.replace("IMAGE", str(image)).split())
    found = {}
    try:
        for line in LINES:
            command = {"command-line": line.replace("IMAGE", str(image))}
            text = qemu.execute("human-monitor-command", command)["return"]
            for pattern, same in DIFFERENT:
                text = re.sub(pattern, same, text)
            found[line] = text
    finally:
        qemu.close()
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_lines(release: str, tmp_path: Path) -> None:
    program = qemu_programs().get(release)
    if program is None:
        pytest.skip(f"{release} is not here; .ci/qemu brings releases")
    link = tmp_path / "qemu-system-x86_64"
    link.symlink_to(Path(sys.executable).parent / "qmpserver")
    link.with_name(f"{link.name}.toml").write_text(f'schema = "{release}"\n')
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    assert shown(str(link), image) == shown(program, image)
