"""A firmware image as the guest program, mapped where a PC maps it; its code is not examined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.files import read_bytes
from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.machine.guest import GuestError

if TYPE_CHECKING:
    from mmap import mmap

UNIT = 64 << 10
LARGEST = 8 << 20  # fits between the local APICs and 4 GiB; QEMU's limit
SHADOW = 128 << 10
SHADOW_END = 0x10_0000


class FirmwareError(GuestError):
    """The image cannot be used; the text says why, in QEMU's words where QEMU has them."""


class Firmware:
    """The image in file `path`, for a machine whose guest-physical memory begins with `ram`.

    The image is mapped so that it ends at 4 GiB; the first vCPU starts 16 bytes before its end. Its
    last 128 KiB are copied to the end of the first MiB, where real mode reaches them.

    Raises:
        FirmwareError: The file cannot be read, or the size of the image or of the RAM is invalid.
    """

    def __init__(self, path: str, ram: mmap | memoryview) -> None:
        try:
            self.rom = read_bytes(path, regular=True)
        except OSError as error:
            raise FirmwareError(f"could not load PC BIOS '{path}': {error.strerror}") from None
        if not 0 < len(self.rom) <= LARGEST or len(self.rom) % UNIT:
            raise FirmwareError(
                f"could not load PC BIOS '{path}': it has {len(self.rom)} bytes, "
                f"not a multiple of {UNIT} up to {LARGEST}"
            )
        if len(ram) < SHADOW_END:
            raise FirmwareError("a PC BIOS needs 1 MiB of RAM")
        self._ram = ram

    def load(self) -> range:
        """Copy the image's end to below 1 MiB and return the pages written. No vCPU may run."""
        shadow = self.rom[-SHADOW:]
        start = SHADOW_END - len(shadow)
        self._ram[start:SHADOW_END] = shadow
        return range(start // PAGE_SIZE, SHADOW_END // PAGE_SIZE)

    def entry(self, cpu_index: int) -> None:
        """Return None: vCPUs start as a PC's processors do, at the reset vector or when woken."""
