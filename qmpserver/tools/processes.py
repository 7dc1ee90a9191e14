"""What processes cost, as the kernel counts it."""

from __future__ import annotations

import os

TICK = os.sysconf("SC_CLK_TCK")


def cpu_ms(pid: int) -> float:
    """Return the milliseconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1e3 / TICK


def private_mb(pid: int) -> float:
    """Return the MB of memory that a process shares with no other."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        lines = [line.split() for line in file]
    return sum(int(words[1]) for words in lines if words[0].startswith("Private_")) / 1e3
