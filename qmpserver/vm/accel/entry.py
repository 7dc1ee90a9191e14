"""The interface between an accelerator and the guest program that its vCPUs run."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """The initial registers of a vCPU in 64-bit mode at CPL 3."""

    rip: int
    rdi: int
    cr3: int


class DirtyEntry(Entry):
    """The entry of the guest `dirty`: `rdi` is the address of its control block."""

    __slots__ = ()


class BootSectorEntry(NamedTuple):
    """The initial registers of a PC's first vCPU as its firmware leaves them to a boot sector."""

    ip: int
    dl: int


class Guest(Protocol):
    """The program that vCPUs run."""

    @property
    def rom(self) -> bytes | None:
        """The firmware of a PC, empty if it has run already; None if the machine is no PC.

        A PC's vCPUs start in its reset state unless they have an entry: the first at its reset
        vector, the others when they are woken.
        """

    def load(self) -> range:
        """Write the program to RAM in its initial state; return the pages written."""

    def entry(self, cpu_index: int) -> Entry | BootSectorEntry | None:
        """Return the entry of a vCPU; None for the reset state of a PC's."""
