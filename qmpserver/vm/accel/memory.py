"""Guest RAM: one memory file, and its mapping in guest-physical memory."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_SIZE = 4096
LOW_END = 0xC000_0000  # leaves room for devices below 4 GiB, like QEMU's pc
HIGH_START = 0x1_0000_0000


class Slot(NamedTuple):
    """A guest-physical range: `pages` pages at `gpa` map the pages of RAM from `ram_page` on."""

    gpa: int
    ram_page: int
    pages: int


class Ram:
    """`size` bytes of guest memory in a file, sparse until touched.

    Its file's name in `/proc/PID/fd` is `/memfd:qmpserver-ram`, or `path`; tools open it to read
    the guest's own counters.

    Args:
        size: Bytes of RAM.
        path: A file instead of a memfd; one that is missing or empty gets the size.

    Raises:
        OSError: The file cannot be opened or mapped.
        ValueError: It is smaller.

    Attributes:
        size: Bytes of RAM.
        pages: Pages of RAM.
        fd: The memory file.
        buffer: The mapping of all RAM in this process.
        address: A native pointer to `buffer`.
        slots: The guest-physical ranges, in the order of RAM.
    """

    def __init__(self, size: int, path: str | None = None) -> None:
        self.size = size
        self.pages = size // PAGE_SIZE
        self.fd = (
            os.memfd_create("qmpserver-ram", os.MFD_CLOEXEC)
            if path is None
            else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        )
        try:
            stored = os.fstat(self.fd).st_size
            if 0 < stored < size:
                raise ValueError(
                    f"backing store size {stored:#x} does not match 'size' option {size:#x}"
                )
            if not stored:
                os.ftruncate(self.fd, size)
            self.buffer = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.address: Any = ffi.from_buffer("uint8_t[]", self.buffer)
        low = min(size, LOW_END) // PAGE_SIZE
        self.slots = [Slot(0, 0, low)]
        if self.pages > low:
            self.slots.append(Slot(HIGH_START, low, self.pages - low))

    @property
    def used(self) -> int:
        """The bytes that the guest or the host has touched."""
        return os.fstat(self.fd).st_blocks * 512

    def parts(self, address: int, size: int) -> Iterator[tuple[int, range]]:
        """Yield where `size` bytes at a guest-physical address are RAM, lowest first.

        Of each part the offset from `address`, and the range of bytes in `buffer`.
        """
        for slot in self.slots:
            first = max(address, slot.gpa)
            end = min(address + size, slot.gpa + slot.pages * PAGE_SIZE)
            if first < end:
                start = slot.ram_page * PAGE_SIZE + first - slot.gpa
                yield first - address, range(start, start + end - first)

    def clear(self) -> None:
        """Make all of it zero and sparse. Blocks, without the GIL; any thread may call it.

        Raises:
            OSError: The kernel cannot free the memory.
        """
        mode = lib.FALLOC_FL_PUNCH_HOLE | lib.FALLOC_FL_KEEP_SIZE
        if lib.fallocate(self.fd, mode, 0, self.size) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def close(self) -> None:
        """Free the memory; no thread and no VM may use it any more."""
        ffi.release(self.address)
        self.buffer.close()
        os.close(self.fd)
