"""A stand-in numbers PCI buses as firmware does."""

import time
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.qemu.probe import Qemu, link_to_stand_in

PATIENCE = 30
DEVICES = """
pcie-root-port,id=p,chassis=1
pcie-root-port,id=q,chassis=2
virtio-serial-pci,bus=q,id=modern
virtio-serial-pci,id=old
pcie-pci-bridge,id=b,bus=p
i6300esb,id=w,bus=b,addr=2
pci-bridge,id=c,bus=b,chassis_nr=3,addr=5
virtio-rng-pci,id=z,bus=c,addr=1
pxb-pcie,id=x,bus_nr=8
ioh3420,id=y,bus=x,chassis=7,slot=3
virtio-rng-pci,id=v,bus=y
""".split()  # noqa: SIM905 -- a line each
OPTIONS = ["-accel", "tcg", "-nodefaults", "-S", "-machine", "q35"]
OPTIONS += [word for one in DEVICES for word in ("-device", one)]
# Chosen by firmware, which a stand-in does not have.
CHOSEN = ("irq", "regions", "io_range", "memory_range", "prefetchable_range")


@pytest.mark.slow
def test_buses_behind_bridges(release: Release, release_qemu: str, tmp_path: Path) -> None:
    link = link_to_stand_in(release.name, tmp_path)
    before, after = buses(link)
    expected_before, expected_after = buses(release_qemu)
    assert before == expected_before
    assert without_chosen(after) == without_chosen(expected_after)


def buses(program: str) -> tuple[Any, Any]:
    """Return what `query-pci` shows before and after firmware has run."""
    qemu = Qemu(program, OPTIONS)
    try:
        before = qemu.execute("query-pci")["return"]
        qemu.execute("cont")
        deadline = time.monotonic() + PATIENCE
        while True:
            after = qemu.execute("query-pci")["return"]
            bridges = [one["pci_bridge"] for one in functions(after) if "pci_bridge" in one]
            ids = [one["qdev_id"] for one in functions(after)]
            if all(one["bus"]["secondary"] for one in bridges) and {"z", "v"} <= set(ids):
                return before, after
            assert time.monotonic() < deadline
            time.sleep(0.1)  # firmware says nothing, and the guest waits while a command runs
    finally:
        qemu.close()


def functions(buses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all functions on some buses and behind their bridges."""
    found = [one for bus in buses for one in bus.get("devices", ())]
    behind = [one["pci_bridge"] for one in found if "pci_bridge" in one]
    return found + (functions(behind) if behind else [])


def without_chosen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_chosen(one) for key, one in value.items() if key not in CHOSEN}
    return [without_chosen(one) for one in value] if isinstance(value, list) else value
