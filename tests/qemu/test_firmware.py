"""The guest `dirty` booted by real QEMU: the firmware image, and the machine code under a real VMM.

Runs where QEMU is, as `qemu_programs` finds it; on KVM where ``/dev/kvm`` can be opened.
"""

import json
import mmap
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from qmpserver.bench.firmware import firmware_image
from qmpserver.tools.qmpctl import main
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.guest import DirtyGuest, DirtyLayout, GuestError
from tests.conftest import HAS_KVM, qemu_programs

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64",
    reason="the image's machine code is x86-64's, and built there only",
)
QEMU = next(iter(qemu_programs().values()), None)

MIB = 1 << 20
RAM = 64 * MIB
CLOCK_HZ = 1_000_000_000  # nearly any will do: no test here minds the exact rate

INTERRUPTS, IOPL_3 = 0x200, 0x3000

needs_qemu = pytest.mark.skipif(QEMU is None, reason="QEMU is not here")
needs_kvm = pytest.mark.skipif(not HAS_KVM, reason="/dev/kvm can't be opened")
accelerators = pytest.mark.parametrize(
    "accel", ["tcg", pytest.param("kvm,dirty-ring-size=4096", marks=needs_kvm)]
)


class Qemu:
    """A QEMU that boots an image; `guest` looks at its RAM, and has loaded nothing."""

    def __init__(self, process: subprocess.Popen[str], guest: DirtyGuest) -> None:
        self.process = process
        self.guest = guest
        greeting = self._receive()
        assert "QMP" in greeting
        self.execute("qmp_capabilities")

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "QEMU has ended"
        message: dict[str, Any] = json.loads(line)
        return self._receive() if "event" in message else message

    def execute(self, command: str, **arguments: object) -> Any:
        assert self.process.stdin is not None
        message = {"execute": command, "arguments": arguments}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self._receive()["return"]

    def hmp(self, line: str) -> str:
        text: str = self.execute("human-monitor-command", **{"command-line": line})
        return text

    def wait_for_progress(self, cpu_index: int, stores: int) -> None:
        deadline = time.monotonic() + 30
        while self.guest.progress(cpu_index) < stores:
            assert time.monotonic() < deadline, self.hmp("info registers -a")
            time.sleep(0.01)


@contextmanager
def boot(
    directory: Path,
    accel: str,
    vcpus: int = 2,
    options: dict[str, str] | None = None,
    smp: int | None = None,
) -> Iterator[Qemu]:
    """Boot an image for `vcpus` vCPUs on a QEMU that has `smp`."""
    options = options or {}
    assert QEMU is not None
    image, memory = directory / "dirty.bin", directory / "ram"
    image.write_bytes(firmware_image(RAM, vcpus, options, CLOCK_HZ))
    with memory.open("wb") as file:
        file.truncate(RAM)
    backend = f"memory-backend-file,id=ram,share=on,size={RAM},mem-path={memory}"
    command = [QEMU, "-accel", accel, "-machine", "pc,memory-backend=ram", "-object", backend]
    command += ["-m", f"{RAM // MIB}M", "-smp", str(smp or vcpus), "-bios", str(image)]
    command += ["-display", "none", "-nodefaults", "-no-user-config", "-qmp", "stdio"]
    with ExitStack() as stack:
        shared = stack.enter_context(memory.open("r+b"))
        ram = stack.enter_context(mmap.mmap(shared.fileno(), RAM))
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(process.kill)
        yield Qemu(process, DirtyGuest(options, ram, vcpus, CLOCK_HZ))


def settled_counters(qemu: Qemu, cpu_index: int) -> list[int]:
    """Return a stopped vCPU's page counters, which its progress bears out."""
    with qemu.guest.page_counters(cpu_index) as view:
        counters = view.tolist()
    assert sum(counters) - qemu.guest.progress(cpu_index) in (0, 1)
    return counters


@needs_qemu
@accelerators
def test_every_vcpu_runs_its_own_control_block(tmp_path: Path, accel: str) -> None:
    with boot(tmp_path, accel, vcpus=3) as qemu:
        for index in range(3):
            qemu.wait_for_progress(index, 1000)
        registers = qemu.hmp("info registers -a")
    blocks = [int(text, 16) for text in re.findall(r"RDI=([0-9a-f]+)", registers)]
    assert blocks == [qemu.guest.entry(index).rdi for index in range(3)]
    assert registers.count("CPL=3") == 3
    flags = [int(text, 16) for text in re.findall(r"RFL=([0-9a-f]+)", registers)]
    assert [value & INTERRUPTS for value in flags] == [0, 0, 0]
    if accel == "tcg":  # a KVM that is no hardware's may forget the I/O privilege level
        assert [value & IOPL_3 for value in flags] == [IOPL_3] * 3


@pytest.mark.slow
@needs_qemu
@accelerators
def test_sequential_stores_at_full_speed_reach_each_page_in_turn(
    tmp_path: Path, accel: str
) -> None:
    with boot(tmp_path, accel) as qemu:
        for index in range(2):
            qemu.wait_for_progress(index, 100_000)
        qemu.execute("stop")
        for index in range(2):
            counters = settled_counters(qemu, index)
            rounds, rest = divmod(sum(counters), len(counters))
            assert counters == [rounds + (page < rest) for page in range(len(counters))]


@pytest.mark.slow
@needs_qemu
@accelerators
@pytest.mark.parametrize("pattern", ["random", "hotspot"])
def test_random_stores_go_where_the_c_function_says(
    tmp_path: Path, accel: str, pattern: str
) -> None:
    # Paced, so that there are few enough to go over one by one.
    with boot(tmp_path, accel, options={"pattern": pattern, "rate": "30", "pages": "500"}) as qemu:
        for index in range(2):
            qemu.wait_for_progress(index, 2000)
        qemu.execute("stop")
        for index in range(2):
            counters = settled_counters(qemu, index)
            expected = [0] * len(counters)
            control = control_block(qemu, index)
            state = ffi.new("struct guest_dirty_state *")
            lib.guest_dirty_start(state, control)
            for _ in range(sum(counters)):
                expected[lib.guest_dirty_next(state, control)] += 1
            assert counters == expected


def control_block(qemu: Qemu, cpu_index: int) -> Any:
    at = qemu.guest.entry(cpu_index).rdi - lib.GUEST_IMAGE
    image = qemu.guest.layout.image()
    return ffi.from_buffer("struct dirty_guest *", image[at : at + 4096])


@pytest.mark.slow
@needs_qemu
@needs_kvm
def test_real_qemu_measures_its_dirty_rate(tmp_path: Path) -> None:
    rates: list[int] = []
    with boot(tmp_path, "kvm,dirty-ring-size=4096") as qemu:
        qemu.wait_for_progress(1, 1000)
        qemu.execute("calc-dirty-rate", **{"calc-time": 1, "mode": "dirty-ring"})
        deadline = time.monotonic() + 30
        while not rates:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            answer = qemu.execute("query-dirty-rate")
            if answer["status"] == "measured":
                rates = [vcpu["dirty-rate"] for vcpu in answer["vcpu-dirty-rate"]]
    assert len(rates) == 2
    assert min(rates) > 25, rates  # MB/s: the whole set at least once, however busy the machine


@needs_qemu
@accelerators
def test_vcpus_that_the_image_is_not_for_stay_halted(tmp_path: Path, accel: str) -> None:
    with boot(tmp_path, accel, vcpus=2, smp=4) as qemu:
        for index in range(2):
            qemu.wait_for_progress(index, 1000)
        wait_until(lambda: qemu.hmp("info registers -a").count("HLT=1") == 2)
        registers = qemu.hmp("info registers -a")
    assert re.findall(r"HLT=(\d)", registers) == ["0", "0", "1", "1"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("vcpus", [1, 32])
def test_image_holds_what_the_server_would_load(vcpus: int) -> None:
    image = firmware_image(RAM, vcpus, {"pattern": "random"})
    assert len(image) % (64 << 10) == 0
    assert len(image) <= 256 << 10
    loaded = DirtyLayout({"pattern": "random"}, RAM, vcpus, 1).image()
    all_blocks = lib.GUEST_CONTROL + lib.GUEST_BOOT_VCPUS * 4096 - lib.GUEST_IMAGE
    memory = image[-4096 - all_blocks : -4096]
    assert memory[: len(loaded)] == loaded
    assert not any(memory[len(loaded) :])
    assert image[-16] == 0xEA, "a far jump at the reset vector"


def test_more_vcpus_than_it_starts() -> None:
    with pytest.raises(GuestError, match="starts 1 to 32 vCPUs, not 33"):
        firmware_image(RAM, 33)


def test_a_rate_needs_a_clock() -> None:
    with pytest.raises(GuestError, match="frequency"):
        firmware_image(RAM, 1, {"rate": "100"})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "image"
    arguments = ["guest", "--output", str(output), "--ram", "64M", "--smp", "2"]
    assert main([*arguments, "--pattern", "random", "--rate", "10", "--clock-hz", "1000"]) == 0
    options = {"pattern": "random", "rate": "10"}
    assert output.read_bytes() == firmware_image(RAM, 2, options, 1000)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ram", "2M"], "need 3 MiB of RAM"),
        (["--rate", "5"], "frequency"),
        (["--output", "/nonexistent/image"], "/nonexistent/image: No such file or directory"),
    ],
)
def test_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert main(["guest", "--output", str(tmp_path / "image"), *arguments]) == 1
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
