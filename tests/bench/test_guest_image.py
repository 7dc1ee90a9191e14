"""`qmpctl guest` writes an image that this server and a real QEMU boot on each vCPU."""

from pathlib import Path

import pytest

from qmpserver.bench.command_line import QEMU
from qmpserver.bench.firmware import ram_size
from qmpserver.bench.launch import launch
from qmpserver.bench.servers import OURS
from tests.conftest import Until
from tests.tools.conftest import Run

SIZES = [(1, "64M", 0), (2, "512M", 4096), (8, "4G", 4096), (32, "64M", 4096), (32, "4G", 0)]
QEMUS = "-object memory-backend-memfd,id=ram,size={ram},share=on -machine pc,memory-backend=ram"
PATIENCE = 40.0


@pytest.mark.slow
@pytest.mark.parametrize("program", [OURS, QEMU], ids=["qmpserver", "qemu"])
@pytest.mark.parametrize(("vcpus", "ram", "ring"), SIZES)
def test_every_vcpu_runs_it(
    qmpctl: Run,
    kvm: None,
    qemu: str,
    until: Until,
    tmp_path: Path,
    program: str,
    vcpus: int,
    ram: str,
    ring: int,
) -> None:
    image = tmp_path / "dirty.bin"
    assert (
        qmpctl("guest", "--output", str(image), "--ram", ram, "--smp", str(vcpus)).returncode == 0
    )
    accel = f"kvm,dirty-ring-size={ring}" if ring else "kvm"
    command = f"{program} -accel {accel} -smp {vcpus} -m {ram} -bios {image} "
    if program == QEMU:
        command += QEMUS.format(ram=ram)
    with launch(command, vcpus=vcpus, accel=accel) as vm:
        until(lambda: all(vm.progress(index) > 1000 for index in range(vcpus)), PATIENCE)
        assert len(vm.qmp.execute("query-cpus-fast")) == vcpus


def test_ram_is_a_size_as_of_m() -> None:
    assert ram_size("64") == 64 << 20
    assert ram_size("1.5g") == 1536 << 20
    with pytest.raises(ValueError, match="'4X' is not a size such as 512M or 4G"):
        ram_size("4X")
