"""A firmware image as what the vCPUs run: where a PC shows it, and nothing of what is in it."""

from __future__ import annotations

from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from qmpserver.vm.machine.guest import PAGE_SIZE, GuestError

if TYPE_CHECKING:
    from mmap import mmap

UNIT = 64 << 10
LARGEST = 8 << 20  # it has to fit between the local APICs and 4 GiB, and QEMU takes no more
SHADOW = 128 << 10
SHADOW_END = 0x10_0000


class FirmwareError(GuestError):
    """The image can't be used; the text says why, in QEMU's words where it has them."""


class Firmware:
    """The image in file `path`, for a machine whose guest-physical memory begins with `ram`.

    All of it ends at 4 GiB, where the first vCPU starts 16 bytes before. Its last 128 KiB are
    copied to below 1 MiB, for real mode to reach.

    Raises:
        FirmwareError: It is not there, or of a size that is not possible.
    """

    def __init__(self, path: str, ram: mmap | memoryview) -> None:
        try:
            if not S_ISREG(Path(path).stat().st_mode):  # others may never end, or never begin
                raise FirmwareError(f"could not load PC BIOS '{path}': not a regular file")
            self.rom = Path(path).read_bytes()
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
        """Copy it to below 1 MiB; return the pages written to. No vCPU may be running."""
        shadow = self.rom[-SHADOW:]
        start = SHADOW_END - len(shadow)
        self._ram[start:SHADOW_END] = shadow
        return range(start // PAGE_SIZE, SHADOW_END // PAGE_SIZE)

    def entry(self, cpu_index: int) -> None:
        """Say that vCPUs start as processors do: at the reset vector, or when they are woken."""
