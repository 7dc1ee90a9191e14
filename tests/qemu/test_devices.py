"""Sessions with devices: what a stand-in and QEMU say to commands about them."""

import json
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.qemu.probe import Qemu, link_to_stand_in

OPTIONS = """
-accel tcg -S -nodefaults -machine pc -netdev user,id=u -netdev user,id=lonely
-device virtio-net-pci,id=v,netdev=u -device e1000,id=e -blockdev null-co,node-name=n
-device virtio-blk-pci,drive=n,id=b -device virtio-balloon-pci,id=bal
-device rtl8139,mac=52:54:00:12:34:58 -device e1000
-device pci-bridge,id=bridge,chassis_nr=1
""".split()  # noqa: SIM905 -- as a command line is written
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("device_add", {"driver": "e1000", "id": "h"}),
    ("device_add", {"driver": "virtio-net-pci", "id": "h2"}),
    *(
        ("qom-get", {"path": f"/machine/peripheral/{device}", "property": name})
        for device in ("v", "e", "h", "h2")
        for name in ("mac", "addr", "hotplugged", "hotpluggable", "realized")
    ),
    *(
        ("qom-set", {"path": f"/machine/peripheral/{device}", "property": name, "value": value})
        for device, name, value in (
            ("v", "mac", "52:54:00:12:34:99"),
            ("e", "mac", "52:54:00:12:34:99"),
            ("e", "mac", 5),
            ("e", "multifunction", True),
            ("v", "mq", True),
            ("v", "netdev", "u"),
            ("b", "logical_block_size", 512),
            ("e", "bootindex", 3),
            ("bal", "guest-stats-polling-interval", 2),
            ("e", "hotplugged", True),
            ("e", "type", "x"),
            ("e", "nope", 1),
        )
    ),
    ("query-rx-filter", {}),
    *(("query-rx-filter", {"name": name}) for name in ("v", "e", "u", "e1000.0", "zz")),
    *(("set_link", {"name": name, "up": True}) for name in ("v", "e1000.1", "e1000.0", "u", "zz")),
    *(
        ("human-monitor-command", {"command-line": line})
        for line in ("info pci", "info network", "info name")
    ),
]
# Releases whose `info pci` shows regions without an address at 0xffffffffffffffff.
GARBLED = ("qemu-7.2",)


@pytest.mark.slow
def test_a_session(release: Release, release_qemu: str, tmp_path: Path) -> None:
    link = link_to_stand_in(release.name, tmp_path)
    got, expected = said(link), said(release_qemu)
    differences = [
        f"{command} {json.dumps(arguments)}\n  {ours}\n  {theirs}"
        for (command, arguments), ours, theirs in zip(COMMANDS, got, expected, strict=True)
        if ours != theirs and not (release.name in GARBLED and "info pci" in arguments.values())
    ]
    assert not differences, "\n" + "\n".join(differences)


def said(program: str) -> list[Any]:
    """Return the reply to each command."""
    qemu = Qemu(program, OPTIONS)
    try:
        return [qemu.execute(command, arguments) for command, arguments in COMMANDS]
    finally:
        qemu.close()
