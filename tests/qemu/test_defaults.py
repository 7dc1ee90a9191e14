"""The devices that a machine has without options for them: a stand-in's are QEMU's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.qemu.probe import Qemu, link_to_stand_in

# IMAGE and FLOPPY stand for files.
LINES = """
-machine pc
-machine q35
-machine isapc
-machine pc -nodefaults
-machine q35 -nodefaults -vga virtio -nic user -serial null -cdrom IMAGE -fda FLOPPY
-machine pc -smp 3
-machine q35 -smp 2 -cdrom IMAGE -netdev user,id=n -device e1000e,netdev=n
-machine pc -serial null -serial null -parallel none -net none -vga none -device VGA -usb
-machine pc -net user -net nic -net nic,model=virtio,macaddr=52:54:00:00:00:01 -device floppy
-machine pc -net nic,netdev=n -netdev user,id=n -vga cirrus -hdc IMAGE -device usb-ehci
-machine pc -nic none -device ide-cd,bus=ide.0 -device isa-parallel,chardev=p -chardev null,id=p
-machine q35 -drive if=none,id=d -device virtio-scsi-pci -device scsi-cd,drive=d -device e1000
-machine pc -virtfs local,path=/,security_model=none,mount_tag=t -device virtio-rng-pci -net nic
-machine pc,usb=on -drive if=ide,index=2,media=cdrom,id=mine -drive if=floppy,id=other
""".strip().splitlines()
QUERIES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("query-block", "query-pci", "query-rx-filter", "query-chardev")),
    ("human-monitor-command", {"command-line": "info network"}),
    ("human-monitor-command", {"command-line": "info block"}),
    ("qom-list", {"path": "/machine/peripheral-anon"}),
    ("qom-list", {"path": "/machine/unattached"}),
]
# Members of /machine/unattached that a stand-in has.
SHOWN = re.compile(
    r"child<(.*(VGA|vga|e1000|ne2k|virtio-net|isa-serial|isa-parallel|ehci|uhci|-cd|-hd).*)>"
)


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_machine_has_them(release: Release, release_qemu: str, tmp_path: Path, line: str) -> None:
    for name in ("IMAGE", "FLOPPY"):
        (tmp_path / name).write_bytes(bytes(1474560))
        line = line.replace(name, str(tmp_path / name))
    options = ["-accel", "tcg", "-S", *line.split()]
    got = shown(link_to_stand_in(release.name, tmp_path), options)
    expected = shown(release_qemu, options)
    for query, ours, theirs in zip(QUERIES, got, expected, strict=True):
        assert ours == theirs, query


def shown(program: str, options: list[str]) -> list[Any]:
    """Return what each query shows."""
    qemu = Qemu(program, options)
    try:
        return [plain(name, qemu.execute(name, given)) for name, given in QUERIES]
    finally:
        qemu.close()


def plain(name: str, reply: dict[str, Any]) -> Any:
    """Return a reply without what is made up or in no order."""
    result = reply["return"]
    if name == "query-chardev":
        return sorted(result, key=lambda one: one["label"])
    if name == "qom-list":
        return sorted((one["name"], one["type"]) for one in result if SHOWN.fullmatch(one["type"]))
    if name == "query-block":
        result = [{**one, "inserted": "inserted" in one} for one in result]
    return re.sub(r"#(net|block)\d+", r"#\1N", json.dumps(result, sort_keys=True))
