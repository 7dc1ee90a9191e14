"""The built-in guest `dirty`: its options, and its initial image in guest memory.

The machine code and the memory map are declared in `accel/native/guest.h`. The guest `stress` has
the same page tables and working sets. This module does not run vCPUs.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError, parse_size
from qmpserver.vm.accel import DirtyEntry
from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.options import GUEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from mmap import mmap

MAX_VCPUS: int = lib.GUEST_MAX_VCPUS
IMAGE_ADDRESS: int = lib.GUEST_IMAGE
PATTERNS: dict[str, int] = {
    "sequential": lib.GUEST_SEQUENTIAL,
    "random": lib.GUEST_RANDOM,
    "hotspot": lib.GUEST_HOT_SPOT,
}

_CONTROL = struct.Struct("<6Q")
_PROGRESS_OFFSET: int = ffi.offsetof("struct dirty_guest", "progress")
_SEED = 0x9E3779B97F4A7C15  # odd, well mixed: each vCPU gets another sequence
_MB = 1 << 20
_GB = 1 << 30

# Page table bits. Accessed and dirty are preset, so the CPU never writes to a table.
_TABLE = 0x27  # present, writable, user, accessed
_LARGE_PAGE = 0xE7  # the same, plus dirty and page size 2 MiB


class GuestError(Exception):
    """The guest's options are invalid; the text says why, and which values are valid."""


class DirtyLayout:
    """The guest's memory layout: the working set of each vCPU, and the initial image.

    Args:
        options: The options of `-guest dirty`, by name.
        ram_size: Bytes of RAM.
        vcpus: The number of vCPUs.
        clock_hz: The frequency of the vCPUs' time stamp counter.

    Attributes:
        pages: The size of each working set, in pages.
        interval: Clock ticks between two stores; 0 is full speed.

    Raises:
        GuestError: An option is invalid, or the working sets do not fit into RAM.
    """

    def __init__(
        self, options: Mapping[str, str], ram_size: int, vcpus: int, clock_hz: int
    ) -> None:
        for name in options:
            if name not in GUEST:
                raise GuestError(
                    f"guest dirty: unknown option '{name}'; expected {', '.join(GUEST)}"
                )
        pattern = options.get("pattern", "sequential")
        if pattern not in PATTERNS:
            raise GuestError(
                f"guest dirty: unknown pattern '{pattern}'; expected {', '.join(PATTERNS)}"
            )
        if not 1 <= vcpus <= MAX_VCPUS:
            raise GuestError(f"guest dirty: {vcpus} vCPUs; expected 1 to {MAX_VCPUS}")
        self.vcpus = vcpus
        self.pattern = PATTERNS[pattern]
        self.pages = working_set("dirty", _requested_pages(options), ram_size, vcpus)
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
        """Return the bytes at `IMAGE_ADDRESS`: page tables, code, control blocks."""
        return b"".join(
            (
                page_tables(),
                page(_code()),
                *(page(self._control_block(index)) for index in range(self.vcpus)),
            )
        )

    def _control_block(self, cpu_index: int) -> bytes:
        seed = (cpu_index + 1) * _SEED % (1 << 64)
        return _CONTROL.pack(self.base(cpu_index), self.pages, self.pattern, self.interval, seed, 0)


class DirtyGuest:
    """The guest in a machine's RAM, where guest-physical address 0 is the first byte of `ram`.

    It uses RAM below 3 GiB only, and touches a page only when the guest uses it: RAM may be sparse,
    and have a hole at 3 GiB. `clock_hz` is the frequency of the vCPUs' time stamp counter.

    Raises:
        GuestError: An option is invalid, or the working sets do not fit into RAM.
    """

    def __init__(
        self, options: Mapping[str, str], ram: mmap | memoryview, vcpus: int, clock_hz: int
    ) -> None:
        self.layout = DirtyLayout(options, len(ram), vcpus, clock_hz)
        self.rom = None
        self._ram = ram

    def load(self) -> range:
        """Write the initial image to memory and return the pages written.

        No vCPU may run. The working sets keep their contents.
        """
        image = self.layout.image()
        self._ram[IMAGE_ADDRESS : IMAGE_ADDRESS + len(image)] = image
        return range(IMAGE_ADDRESS // PAGE_SIZE, (IMAGE_ADDRESS + len(image)) // PAGE_SIZE)

    def entry(self, cpu_index: int) -> DirtyEntry:
        """Return the start address and registers of a vCPU; it needs no stack."""
        return DirtyEntry(lib.GUEST_CODE, self.layout.control(cpu_index), lib.GUEST_IMAGE)

    def progress(self, cpu_index: int) -> int:
        """Return the number of stores that a vCPU has made; the vCPU may run meanwhile."""
        # "Q" is one atomic load; "<Q" would read the bytes one by one while the guest writes.
        offset = self.layout.control(cpu_index) + _PROGRESS_OFFSET
        return int(struct.unpack_from("Q", self._ram, offset)[0])

    def page_counters(self, cpu_index: int) -> memoryview:
        """Return the counter of each page of a vCPU's working set: the number of stores to it.

        While the vCPU is stopped, and until the machine is reset, their sum is `progress`, or one
        more. The view is of live memory: release it before the RAM is closed.
        """
        base = self.layout.base(cpu_index)
        size = self.layout.pages * PAGE_SIZE
        return memoryview(self._ram)[base : base + size].cast("Q")[:: PAGE_SIZE // 8]


def _requested_pages(options: Mapping[str, str]) -> int | None:
    if "pages" in options and "size" in options:
        raise GuestError("guest dirty: options 'pages' and 'size' exclude each other")
    if "pages" in options:
        return _number("pages", options["pages"], 1)
    if "size" not in options:
        return None
    return parse_pages("dirty", options["size"])


def parse_pages(guest: str, text: str) -> int:
    """Return the pages of a working set whose size is given as `text`.

    Raises:
        GuestError: It is not a size, or not a multiple of a page's.
    """
    try:
        size = parse_size("size", text)
    except OptionError:
        size = 0
    if size == 0 or size % PAGE_SIZE:
        raise GuestError(
            f"guest {guest}: invalid size '{text}'; expected a multiple of {PAGE_SIZE}, "
            "as a number with an optional suffix k, M, G, T, P or E"
        )
    return size // PAGE_SIZE


def _number(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) or int(text) < least:
        raise GuestError(f"guest dirty: {name} '{text}' must be an integer >= {least}")
    return int(text)


def working_set(guest: str, requested: int | None, ram_size: int, vcpus: int) -> int:
    """Return the pages of each vCPU's working set: the requested number, or an equal share.

    Raises:
        GuestError: They do not fit into RAM, or not below 3 GiB.
    """
    start: int = lib.GUEST_SETS
    fitting = (min(ram_size, lib.GUEST_LOW_END) - start) // PAGE_SIZE // vcpus
    pages = requested or max(fitting, 1)
    if pages <= fitting:
        return pages
    needed = start + vcpus * pages * PAGE_SIZE
    if needed > lib.GUEST_LOW_END:
        most = (lib.GUEST_LOW_END - start) // PAGE_SIZE // vcpus
        raise GuestError(
            f"guest {guest}: {pages} pages for each of {vcpus} vCPUs do not fit below "
            f"{lib.GUEST_LOW_END // _GB} GiB; the most possible is {most} each"
        )
    raise GuestError(
        f"guest {guest}: {vcpus} vCPUs with {pages} pages each need {-(-needed // _MB)} MiB "
        f"of RAM, but the machine has {ram_size // _MB} MiB"
    )


def page_tables() -> bytes:
    """Return page tables that map the first 3 GiB one to one, whether RAM or not."""
    middle = IMAGE_ADDRESS + PAGE_SIZE
    lowest = range(middle + PAGE_SIZE, lib.GUEST_CODE, PAGE_SIZE)
    return (
        page(_quads([middle | _TABLE]))
        + page(_quads(table | _TABLE for table in lowest))
        + _quads(address | _LARGE_PAGE for address in range(0, lib.GUEST_LOW_END, 2 * _MB))
    )


def _quads(values: Iterable[int]) -> bytes:
    listed = [*values]
    return struct.pack(f"<{len(listed)}Q", *listed)


def page(content: bytes) -> bytes:
    """Return `content`, filled up to a page."""
    return content.ljust(PAGE_SIZE, b"\0")


def _code() -> bytes:
    start, end = lib.guest_dirty_code, lib.guest_dirty_code_end
    return bytes(ffi.buffer(start, end - start))
