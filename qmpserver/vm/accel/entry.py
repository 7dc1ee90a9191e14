"""The interface between an accelerator and the guest program that its vCPUs run."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """The registers with which a vCPU starts, in 64-bit mode at CPL 3."""

    rip: int
    rdi: int
    cr3: int


class Guest(Protocol):
    """The program that vCPUs run.

    Attributes:
        rom: Firmware; if it is not empty, vCPUs start as a PC's processors do, without entries.
    """

    rom: bytes

    def load(self) -> range:
        """Write the program to RAM in its initial state; return the pages written to."""

    def entry(self, cpu_index: int) -> Entry | None:
        """Return the entry of a vCPU; None with a `rom`."""
