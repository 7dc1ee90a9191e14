"""The interface between an accelerator and the guest program that its vCPUs run."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """The initial registers of a vCPU in 64-bit mode at CPL 3."""

    rip: int
    rdi: int
    cr3: int


class Guest(Protocol):
    """The program that vCPUs run.

    Attributes:
        rom: Firmware; if not empty, vCPUs start in a PC's reset state and have no entries.
    """

    rom: bytes

    def load(self) -> range:
        """Write the program to RAM in its initial state; return the pages written."""

    def entry(self, cpu_index: int) -> Entry | None:
        """Return the entry of a vCPU; None if there is a `rom`."""
