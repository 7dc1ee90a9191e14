"""Guest-physical memory as a device sees it: RAM, with nothing where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.vm.accel.memory import PAGE_SIZE

if TYPE_CHECKING:
    from qmpserver.vm.accel.engine import Engine
    from qmpserver.vm.accel.memory import Ram


class PhysicalMemory:
    """The memory of a machine. Use it from the event loop's thread; the guest may run meanwhile."""

    def __init__(self, ram: Ram, engine: Engine) -> None:
        self._ram = ram
        self._engine = engine

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes; where there is no RAM they are zero."""
        found = bytearray(size)
        for offset, part in self._ram.parts(address, size):
            found[offset : offset + len(part)] = self._ram.buffer[part.start : part.stop]
        return bytes(found)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes where there is RAM; its pages are dirty then."""
        for offset, part in self._ram.parts(address, len(data)):
            self._ram.buffer[part.start : part.stop] = data[offset : offset + len(part)]
            self._engine.mark_dirty(
                range(part.start // PAGE_SIZE, (part.stop - 1) // PAGE_SIZE + 1)
            )
