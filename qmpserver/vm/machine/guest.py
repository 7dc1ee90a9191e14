"""The built-in guest `dirty`: its options, and what of it lies in guest memory before it runs.

The machine code and the memory map are those of ``accel/native/guest.h``; nothing here runs vCPUs.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError, parse_size
from qmpserver.vm.accel import Entry
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.options import GUEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from mmap import mmap

PAGE_SIZE = 4096
MAX_VCPUS: int = lib.GUEST_MAX_VCPUS
IMAGE_ADDRESS: int = lib.GUEST_IMAGE
PATTERNS: dict[str, int] = {
    "sequential": lib.GUEST_SEQUENTIAL,
    "random": lib.GUEST_RANDOM,
    "hotspot": lib.GUEST_HOT_SPOT,
}

_CONTROL = struct.Struct("<6Q")
_PROGRESS_OFFSET: int = ffi.offsetof("struct dirty_guest", "progress")
_SEED = 0x9E3779B97F4A7C15  # odd, with its bits well mixed: no two vCPUs walk alike
_MB = 1 << 20
_GB = 1 << 30

# Page table bits. Accessed and dirty are set beforehand, so that the CPU never writes to a table.
_TABLE = 0x27  # present, writable, user, accessed
_LARGE_PAGE = 0xE7  # the same, dirty, and 2 MiB in one


class GuestError(Exception):
    """The guest can't be had as asked for; the text says why and what would do."""


class DirtyLayout:
    """Which working set each vCPU gets, and the memory the guest finds when it starts.

    `pages` is the size of each working set, `interval` the clock ticks between two stores.
    """

    def __init__(
        self, options: Mapping[str, str], ram_size: int, vcpus: int, clock_hz: int
    ) -> None:
        for name in options:
            if name not in GUEST:
                raise GuestError(f"guest dirty: no option '{name}'; it has {', '.join(GUEST)}")
        pattern = options.get("pattern", "sequential")
        if pattern not in PATTERNS:
            raise GuestError(
                f"guest dirty: pattern '{pattern}' is unknown; it is one of {', '.join(PATTERNS)}"
            )
        if not 1 <= vcpus <= MAX_VCPUS:
            raise GuestError(f"guest dirty: runs on 1 to {MAX_VCPUS} vCPUs, not on {vcpus}")
        self.vcpus = vcpus
        self.pattern = PATTERNS[pattern]
        self.pages = _working_set(_asked_pages(options), ram_size, vcpus)
        rate = _number("rate", options.get("rate", "0"), 0)
        self.interval = max(1, round(clock_hz * PAGE_SIZE / (rate * _MB))) if rate else 0

    def base(self, cpu_index: int) -> int:
        """Return the guest-physical address of a vCPU's working set."""
        return int(lib.GUEST_SETS) + cpu_index * self.pages * PAGE_SIZE

    def control(self, cpu_index: int) -> int:
        """Return the guest-physical address of a vCPU's control block."""
        if not 0 <= cpu_index < self.vcpus:
            raise IndexError(cpu_index)
        return int(lib.GUEST_CONTROL) + cpu_index * PAGE_SIZE

    def image(self) -> bytes:
        """Return what lies from IMAGE_ADDRESS on: page tables, code, control blocks."""
        return b"".join(
            (
                _page_tables(),
                _page(_code()),
                *(_page(self._control_block(index)) for index in range(self.vcpus)),
            )
        )

    def _control_block(self, cpu_index: int) -> bytes:
        seed = (cpu_index + 1) * _SEED % (1 << 64)
        return _CONTROL.pack(self.base(cpu_index), self.pages, self.pattern, self.interval, seed, 0)


class DirtyGuest:
    """The guest in a machine's RAM, where guest-physical address 0 is the first byte of `ram`.

    It uses RAM below 3 GiB only, and touches what it is about to use only: RAM may be sparse, and
    have a hole at 3 GiB. `clock_hz` is the frequency of the vCPUs' time stamp counter.
    """

    def __init__(
        self, options: Mapping[str, str], ram: mmap | memoryview, vcpus: int, clock_hz: int
    ) -> None:
        self.layout = DirtyLayout(options, len(ram), vcpus, clock_hz)
        self.rom = b""
        self._ram = ram

    def load(self) -> range:
        """Write the guest to memory, in its first state; return the pages written to.

        No vCPU may be running. The working sets stay as they are.
        """
        image = self.layout.image()
        self._ram[IMAGE_ADDRESS : IMAGE_ADDRESS + len(image)] = image
        return range(IMAGE_ADDRESS // PAGE_SIZE, (IMAGE_ADDRESS + len(image)) // PAGE_SIZE)

    def entry(self, cpu_index: int) -> Entry:
        """Return where a vCPU starts; it needs no stack."""
        return Entry(lib.GUEST_CODE, self.layout.control(cpu_index), lib.GUEST_IMAGE)

    def progress(self, cpu_index: int) -> int:
        """Return how many stores a vCPU has made. At any time: it is read in one piece."""
        # "Q" and not "<Q", which would gather the bytes one by one while the guest goes on.
        where = self.layout.control(cpu_index) + _PROGRESS_OFFSET
        return int(struct.unpack_from("Q", self._ram, where)[0])

    def page_counters(self, cpu_index: int) -> memoryview:
        """Return the counters in a vCPU's pages, one item a page: how often each was stored to.

        Until a reset their sum is `progress`, or one more, while the vCPU is stopped. The view is
        of live memory: let go of it before the RAM is closed.
        """
        base = self.layout.base(cpu_index)
        size = self.layout.pages * PAGE_SIZE
        return memoryview(self._ram)[base : base + size].cast("Q")[:: PAGE_SIZE // 8]


def _asked_pages(options: Mapping[str, str]) -> int | None:
    if "pages" in options and "size" in options:
        raise GuestError("guest dirty: pages and size say the same, give one of them")
    if "pages" in options:
        return _number("pages", options["pages"], 1)
    if "size" not in options:
        return None
    try:
        size = parse_size("size", options["size"])
    except OptionError:
        size = 0
    if size == 0 or size % PAGE_SIZE:
        raise GuestError(
            f"guest dirty: size '{options['size']}' must be a multiple of {PAGE_SIZE}, "
            "as a number with an optional k, M, G, T, P or E"
        )
    return size // PAGE_SIZE


def _number(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) or int(text) < least:
        raise GuestError(f"guest dirty: {name} '{text}' must be a whole number from {least} on")
    return int(text)


def _working_set(asked: int | None, ram_size: int, vcpus: int) -> int:
    """Return how many pages each vCPU gets: an equal share, or as many as asked for."""
    start: int = lib.GUEST_SETS
    fitting = (min(ram_size, lib.GUEST_LOW_END) - start) // PAGE_SIZE // vcpus
    pages = asked or max(fitting, 1)
    if pages <= fitting:
        return pages
    needed = start + vcpus * pages * PAGE_SIZE
    if needed > lib.GUEST_LOW_END:
        most = (lib.GUEST_LOW_END - start) // PAGE_SIZE // vcpus
        raise GuestError(
            f"guest dirty: {pages} pages for each of {vcpus} vCPUs do not fit below "
            f"{lib.GUEST_LOW_END // _GB} GiB; with enough RAM {most} pages each do"
        )
    raise GuestError(
        f"guest dirty: {vcpus} vCPUs with {pages} pages each need {-(-needed // _MB)} MiB of RAM, "
        f"there are {ram_size // _MB}"
    )


def _page_tables() -> bytes:
    """Map the first 3 GiB to themselves, whatever of it is RAM."""
    middle = IMAGE_ADDRESS + PAGE_SIZE
    lowest = range(middle + PAGE_SIZE, lib.GUEST_CODE, PAGE_SIZE)
    return (
        _page(_quads([middle | _TABLE]))
        + _page(_quads(table | _TABLE for table in lowest))
        + _quads(address | _LARGE_PAGE for address in range(0, lib.GUEST_LOW_END, 2 * _MB))
    )


def _quads(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<Q", value) for value in values)


def _page(content: bytes) -> bytes:
    return content.ljust(PAGE_SIZE, b"\0")


def _code() -> bytes:
    start, end = lib.guest_dirty_code, lib.guest_dirty_code_end
    return bytes(ffi.buffer(start, end - start))
