"""The guest `dirty`: its layout, and its machine code, run here as part of an ordinary process.

That code is position-independent, needs no privilege, and takes its control block's address as C
passes a first argument: so a child process maps the "RAM", points the control block's `base` at its
own mapping, and jumps into the code until the test kills it.
"""

import mmap
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.guest import (
    IMAGE_ADDRESS,
    MAX_VCPUS,
    PATTERNS,
    DirtyGuest,
    DirtyLayout,
    GuestError,
)

MIB = 1 << 20
GIB = 1 << 30
CLOCK_HZ = 2_600_000_000

RUN_NATIVELY = """
import ctypes, mmap, sys
path, control, base, code, size = sys.argv[1], *map(int, sys.argv[2:])
with open(path, "r+b") as file:
    ram = mmap.mmap(file.fileno(), 0)
text = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
text[:] = ram[code:code + size]
address = ctypes.addressof(ctypes.c_char.from_buffer(ram))
ctypes.c_uint64.from_buffer(ram, control).value = address + base
run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(text)))
run(address + control)
"""


def sparse_ram(path: Path, size: int) -> mmap.mmap:
    with path.open("w+b") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def control_block(ram: mmap.mmap | bytes, address: int) -> Any:
    """Return a copy of the control block at `address`."""
    return ffi.from_buffer("struct dirty_guest *", ram[address : address + PAGE_SIZE])


class NativeGuest:
    """A loaded guest of two vCPUs, of which the second runs in a child process."""

    CPU = 1

    def __init__(self, directory: Path, options: dict[str, str], ram: int = 8 * MIB) -> None:
        if platform.machine() != "x86_64":
            pytest.skip("the guest's machine code is x86-64's")
        self.path = directory / "ram"
        self.ram = sparse_ram(self.path, ram)
        self.guest = DirtyGuest(options, self.ram, 2, CLOCK_HZ)
        self.guest.load()
        self.initial = control_block(self.ram, self.guest.entry(self.CPU).rdi)

    def run(self, stores: int = 1000) -> None:
        """Run for at least so many stores."""
        with self.running():
            self.wait_for_progress(self.progress() + stores)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        layout, entry = self.guest.layout, self.guest.entry(self.CPU)
        numbers = (entry.rdi, layout.base(self.CPU), entry.rip, PAGE_SIZE)
        command = [sys.executable, "-c", RUN_NATIVELY, str(self.path), *map(str, numbers)]
        child = subprocess.Popen(command)
        try:
            yield child
        finally:
            child.kill()
            child.wait()

    def set(self, field: str, value: int) -> None:
        """Change a field of the control block as a host may: in one store."""
        where = self.guest.entry(self.CPU).rdi + ffi.offsetof("struct dirty_guest", field)
        with memoryview(self.ram)[where : where + 8].cast("Q") as word:
            word[0] = value

    def progress(self) -> int:
        return self.guest.progress(self.CPU)

    def wait_for_progress(self, beyond: int) -> int:
        deadline = time.monotonic() + 20
        while self.progress() <= beyond:
            assert time.monotonic() < deadline, "the guest does not get on"
            time.sleep(0.001)
        return self.progress()

    def counters(self) -> list[int]:
        with self.guest.page_counters(self.CPU) as view:
            return view.tolist()


def expected_counters(control: Any, stores: int) -> list[int]:
    """Count visits as the software accelerator would make them: by guest_dirty_next()."""
    state = ffi.new("struct guest_dirty_state *")
    lib.guest_dirty_start(state, control)
    visits = Counter(lib.guest_dirty_next(state, control) for _ in range(stores))
    return [visits[page] for page in range(control.pages)]


@pytest.mark.parametrize("pages", ["1", "7", "300", "700"])
@pytest.mark.parametrize("rate", ["0", "5000"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_machine_code_visits_the_pages_that_the_c_function_names(
    tmp_path: Path, pattern: str, rate: str, pages: str
) -> None:
    native = NativeGuest(tmp_path, {"pattern": pattern, "rate": rate, "pages": pages})
    native.run()
    counters = native.counters()
    assert len(counters) == int(pages)
    assert sum(counters) - native.progress() in (0, 1)
    assert counters == expected_counters(native.initial, sum(counters))


def test_other_vcpus_pages_are_left_alone(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {"pattern": "random"})
    native.run()
    assert native.guest.progress(0) == 0
    with native.guest.page_counters(0) as counters:
        assert not any(counters)


def test_progress_goes_on_from_what_the_control_block_says(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {})
    native.set("progress", 1 << 40)
    native.run()
    assert sum(native.counters()) - (native.progress() - (1 << 40)) in (0, 1)


def test_a_new_pace_holds_at_once(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {})
    native.set("interval", 1 << 50)
    with native.running():
        native.wait_for_progress(0)
        time.sleep(0.05)
        assert native.progress() == 1
        native.set("interval", 0)
        native.wait_for_progress(1000)
        native.set("interval", 1 << 50)
        time.sleep(0.05)
        before = native.progress()
        time.sleep(0.05)
        assert native.progress() == before


def test_the_control_block_is_looked_at_every_256_stores(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {}, 256 * MIB)
    with native.running() as child:
        native.wait_for_progress(0)
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        before = native.progress()
        native.set("interval", 1 << 50)
        os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.05)
        # Those of the batch under way, and one to learn when the next is due.
        assert native.progress() - before <= 256 + 1


def test_pages_and_pattern_may_change_while_it_runs(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {"pages": "500"})
    with native.running():
        native.wait_for_progress(10_000)
        native.set("pages", 3)
        native.wait_for_progress(native.progress() + 2 * 256)  # it has looked there
        before = native.counters()
        native.set("pattern", PATTERNS["random"])
        native.wait_for_progress(native.progress() + 10_000)
        after = native.counters()
    assert before[3:] == after[3:]
    assert all(new > old for new, old in zip(after[:3], before[:3], strict=True))


@pytest.mark.slow
def test_pace_follows_the_interval(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {})
    speed = {}
    with native.running():
        # Long enough that the guest makes up for what a busy machine takes from it.
        for interval in (2_000_000, 20_000_000):
            native.set("interval", interval)
            native.wait_for_progress(native.progress())
            start, before = time.monotonic(), native.progress()
            time.sleep(0.6)
            speed[interval] = (native.progress() - before) / (time.monotonic() - start)
    assert speed[2_000_000] / speed[20_000_000] == pytest.approx(10, rel=0.15)


@pytest.mark.slow
def test_no_burst_after_a_pause(tmp_path: Path) -> None:
    native = NativeGuest(tmp_path, {})
    native.set("interval", 200_000)
    with native.running() as child:
        start = native.wait_for_progress(0)
        time.sleep(0.5)
        in_half_a_second = native.progress() - start
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        time.sleep(0.5)
        stopped_at = native.progress()
        os.kill(child.pid, signal.SIGCONT)
        native.wait_for_progress(stopped_at)
        time.sleep(0.02)
        assert native.progress() - stopped_at < in_half_a_second / 2


@given(
    st.sampled_from(list(PATTERNS.values())),
    st.integers(1, 1 << 52),
    st.integers(1, (1 << 64) - 1),
)
def test_next_page_is_always_in_the_set(pattern: int, pages: int, seed: int) -> None:
    control = ffi.new("struct dirty_guest *", {"pages": pages, "pattern": pattern, "seed": seed})
    state = ffi.new("struct guest_dirty_state *")
    lib.guest_dirty_start(state, control)
    assert all(lib.guest_dirty_next(state, control) < pages for _ in range(50))


def test_hot_spot_is_the_first_tenth() -> None:
    control = ffi.new("struct dirty_guest *", {"pages": 1000, "pattern": 2, "seed": 1 << 60 | 1})
    counters = expected_counters(control, 100_000)
    assert sum(counters[:100]) == pytest.approx(90_000, rel=0.01)
    assert all(counters)


def test_random_reaches_all_pages_evenly() -> None:
    control = ffi.new("struct dirty_guest *", {"pages": 100, "pattern": 1, "seed": 1 << 60 | 1})
    counters = expected_counters(control, 100_000)
    assert max(abs(count - 1000) for count in counters) < 200


def test_a_smaller_set_starts_again_at_its_first_page() -> None:
    control = ffi.new("struct dirty_guest *", {"pages": 10})
    state = ffi.new("struct guest_dirty_state *")
    lib.guest_dirty_start(state, control)
    assert [lib.guest_dirty_next(state, control) for _ in range(12)] == [*range(10), 0, 1]
    control.pages = 2
    assert [lib.guest_dirty_next(state, control) for _ in range(3)] == [0, 1, 0]


# The layout.


def walk(ram: mmap.mmap, cr3: int, address: int) -> tuple[int, int] | None:
    """Translate as the CPU does: the physical address, and the flags common to all levels."""
    flags = ~0
    table = cr3
    for shift in (39, 30, 21):
        where = table + (address >> shift) % 512 * 8
        item = int.from_bytes(ram[where : where + 8], "little")
        if not item & 1:
            return None
        flags &= item & 0xFFF
        table = item & ~0xFFF
    assert item & 0x80, "a 2 MiB page"
    assert item & 0x40, "dirty beforehand"
    return table + address % (2 * MIB), flags


def test_page_tables_map_low_memory_to_itself_for_user_mode(tmp_path: Path) -> None:
    ram = sparse_ram(tmp_path / "ram", 8 * MIB)
    guest = DirtyGuest({}, ram, 1, CLOCK_HZ)
    guest.load()
    cr3 = guest.entry(0).cr3
    present_writable_user_accessed = 0x27
    for address in (0, 0x1234, lib.GUEST_CODE, lib.GUEST_SETS, GIB + 5, 3 * GIB - 1):
        assert walk(ram, cr3, address) == (address, present_writable_user_accessed)
    assert walk(ram, cr3, 3 * GIB) is None
    assert walk(ram, cr3, 512 * GIB) is None


@pytest.mark.parametrize("vcpus", [1, 2, 3, 31, 32])
@pytest.mark.parametrize("ram_size", [8 * MIB, 512 * MIB, 64 * GIB])
def test_working_sets_share_the_rest_of_low_ram(tmp_path: Path, vcpus: int, ram_size: int) -> None:
    ram = sparse_ram(tmp_path / "ram", ram_size)
    guest = DirtyGuest({}, ram, vcpus, CLOCK_HZ)
    guest.load()
    end = IMAGE_ADDRESS + len(guest.layout.image())
    for index in range(vcpus):
        entry = guest.entry(index)
        assert (entry.rip, entry.cr3) == (lib.GUEST_CODE, IMAGE_ADDRESS)
        assert entry.rdi + PAGE_SIZE <= lib.GUEST_SETS
        control = control_block(ram, entry.rdi)
        assert control.base % PAGE_SIZE == 0
        assert control.base >= end, "overlaps what lies before it"
        end = control.base + control.pages * PAGE_SIZE
        with guest.page_counters(index) as counters:
            assert len(counters) == control.pages
    left = min(ram_size, 3 * GIB) - end
    assert 0 <= left < vcpus * PAGE_SIZE
    with pytest.raises(IndexError):
        guest.entry(vcpus)
    assert (tmp_path / "ram").stat().st_blocks * 512 <= MIB, "RAM is no longer sparse"
    ram.close()


def test_each_vcpu_has_a_seed_of_its_own() -> None:
    image = DirtyLayout({}, 64 * MIB, MAX_VCPUS, CLOCK_HZ).image()
    blocks = image[lib.GUEST_CONTROL - IMAGE_ADDRESS :]
    seeds = {control_block(blocks, at).seed for at in range(0, len(blocks), PAGE_SIZE)}
    assert len(seeds) == MAX_VCPUS
    assert 0 not in seeds


@pytest.mark.parametrize(
    ("options", "pages", "interval"),
    [
        ({"pages": "5"}, 5, 0),
        ({"size": "4096"}, 1, 0),
        ({"size": "64k"}, 16, 0),
        ({"size": "1.5M"}, 384, 0),
        ({"size": "0x2000"}, 2, 0),
        ({"size": "32M", "rate": "100"}, 8192, 101562),
        ({"rate": "0"}, 32512, 0),
        ({"rate": "999999999"}, 32512, 1),
    ],
)
def test_options(options: dict[str, str], pages: int, interval: int) -> None:
    layout = DirtyLayout(options, 256 * MIB, 2, CLOCK_HZ)
    assert (layout.pages, layout.interval) == (pages, interval)


@pytest.mark.parametrize(
    ("options", "ram_size", "vcpus", "text"),
    [
        ({"colour": "red"}, GIB, 1, "unknown option 'colour'; expected pages, size, pattern, rate"),
        ({"pattern": "rnd"}, GIB, 1, "unknown pattern 'rnd'; expected sequential, random, hotspot"),
        ({"pages": "0"}, GIB, 1, "pages '0' must be an integer >= 1"),
        ({"rate": "-1"}, GIB, 1, "rate '-1' must be an integer >= 0"),
        ({"rate": "1.5"}, GIB, 1, "rate '1.5'"),
        ({"size": "100"}, GIB, 1, "invalid size '100'; expected a multiple of 4096"),
        ({"size": "5Q"}, GIB, 1, "invalid size '5Q'"),
        ({"size": ""}, GIB, 1, "invalid size ''"),
        ({"size": "1M", "pages": "1"}, GIB, 1, "exclude each other"),
        ({}, GIB, 251, "251 vCPUs; expected 1 to 250"),
        ({}, GIB, 0, "0 vCPUs; expected 1 to 250"),
        ({}, 2 * MIB, 2, "2 vCPUs with 1 pages each need 3 MiB of RAM, but the machine has 2 MiB"),
        (
            {"size": "16M"},
            32 * MIB,
            2,
            "4096 pages each need 34 MiB of RAM, but the machine has 32",
        ),
        ({"size": "2G"}, 64 * GIB, 2, "do not fit below 3 GiB; the most possible is 392960 each"),
    ],
)
def test_invalid_options_are_refused(
    options: dict[str, str], ram_size: int, vcpus: int, text: str
) -> None:
    with pytest.raises(GuestError) as caught:
        DirtyLayout(options, ram_size, vcpus, CLOCK_HZ)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
