"""A disk's first sector as the guest program, where a PC's firmware loads it.

No firmware runs and there is no disk: the sector has the machine to itself, and can read no other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qmpserver.vm.accel import BootSectorEntry
from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.machine.guest import GuestError

if TYPE_CHECKING:
    from mmap import mmap

SIZE = 512
ADDRESS = 0x7C00
FIRST_DISK = 0x80  # the number that firmware passes on
SIGNATURE = b"\x55\xaa"


class BootSector:
    """The first sector of the disk image `path`, for a machine whose RAM begins with `ram`.

    The first vCPU starts at it, in real mode; the others wait until they are woken.

    Raises:
        GuestError: The file cannot be read, or has no boot sector; or there is too little RAM.
    """

    rom = b""

    def __init__(self, path: str, ram: mmap | memoryview) -> None:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as image:
                self._sector = image.read(SIZE)
        except OSError as error:
            raise GuestError(f"Could not open '{path}': {error.strerror}") from None
        if len(self._sector) < SIZE or not self._sector.endswith(SIGNATURE):
            raise GuestError(f"'{path}' has no boot sector: {SIZE} bytes that end in 55 aa")
        if len(ram) < ADDRESS + SIZE:
            raise GuestError(f"a boot sector needs {ADDRESS + SIZE} bytes of RAM")
        self._ram = ram

    def load(self) -> range:
        """Write the sector to RAM and return the pages written. No vCPU may run."""
        self._ram[ADDRESS : ADDRESS + SIZE] = self._sector
        return range(ADDRESS // PAGE_SIZE, (ADDRESS + SIZE - 1) // PAGE_SIZE + 1)

    def entry(self, cpu_index: int) -> BootSectorEntry | None:
        """Return the entry of the first vCPU, None for the others."""
        return None if cpu_index else BootSectorEntry(ADDRESS, FIRST_DISK)
