"""Guest RAM: one memory file, and where the guest sees it."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

from qmpserver.vm.accel.native._native import ffi

PAGE_SIZE = 4096
LOW_END = 0xC000_0000  # RAM leaves room for devices below 4 GiB, as on QEMU's pc
HIGH_START = 0x1_0000_0000


@dataclass(frozen=True, slots=True)
class Slot:
    """A guest-physical range: `pages` pages at address `gpa` are RAM's pages from `ram_page` on."""

    gpa: int
    ram_page: int
    pages: int


class Ram:
    """`size` bytes of guest memory in a memfd, sparse until touched.

    `buffer` is all of it, `address` a native pointer to it, `slots` how guests see it. The file's
    name in ``/proc/PID/fd`` is ``/memfd:qmpserver-ram``, so that tools may watch the guest's own
    counters.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages = size // PAGE_SIZE
        self._fd = os.memfd_create("qmpserver-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, size)
            self.buffer = mmap.mmap(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        self.address: Any = ffi.from_buffer("uint8_t[]", self.buffer)
        low = min(size, LOW_END) // PAGE_SIZE
        self.slots = [Slot(0, 0, low)]
        if self.pages > low:
            self.slots.append(Slot(HIGH_START, low, self.pages - low))

    def close(self) -> None:
        """Give the memory back. No thread and no VM may use it any more."""
        ffi.release(self.address)
        self.buffer.close()
        os.close(self._fd)
