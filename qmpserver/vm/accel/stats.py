"""Statistics of an accelerator and their descriptors; KVM's are read from its statistics files.

Source of the format: Linux, Documentation/virt/kvm/api.rst, "KVM_GET_STATS_FD".
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

StatType = Literal["cumulative", "instant", "peak", "linear-histogram", "log2-histogram"]
StatUnit = Literal["bytes", "seconds", "cycles", "boolean"]
StatValue: TypeAlias = int | bool | list[int]

_TYPES: tuple[StatType, ...] = (
    "cumulative",
    "instant",
    "peak",
    "linear-histogram",
    "log2-histogram",
)
_UNITS: tuple[StatUnit | None, ...] = (None, "bytes", "seconds", "cycles", "boolean")
_BASES = (10, 2)

_HEADER = struct.Struct("=6I")  # flags, name_size, num_desc, id_offset, desc_offset, data_offset
_DESCRIPTOR = struct.Struct("=IhHII")  # flags, exponent, size, offset, bucket_size; then the name


class Stat(NamedTuple):
    """A statistic: a number, or a list of `size` numbers, in units of `base` ** `exponent`."""

    name: str
    type: StatType
    unit: StatUnit | None = None
    base: int = 10
    exponent: int = 0
    size: int = 1
    bucket_size: int = 0  # of a linear histogram


class StatsSource(Protocol):
    """A source of statistics: the machine, or a vCPU."""

    @property
    def stats(self) -> Sequence[Stat]:
        """The statistics, in a fixed order."""

    def read(self) -> Sequence[StatValue]:
        """Return all values, in the order of `stats`; take no lock that a vCPU may hold."""


class Statistics(NamedTuple):
    """All statistics of a machine, from one provider."""

    provider: Literal["kvm", "__org.qmpserver_soft"]
    machine: StatsSource
    vcpus: Sequence[StatsSource]


class KvmLayout:
    """The descriptors in one of KVM's files; files of the same kind have the same.

    Statistics of an unknown type, unit or base are left out.
    """

    def __init__(self, fd: int) -> None:
        """Read the descriptors from `fd`.

        Raises:
            OSError: The file cannot be read.
        """
        _, name_size, count, _, where, self.data_offset = _HEADER.unpack(
            os.pread(fd, _HEADER.size, 0)
        )
        step = _DESCRIPTOR.size + name_size
        descriptors = os.pread(fd, step * count, where)
        self.stats: list[Stat] = []
        self.words: list[int | slice] = []  # the position of each value, in 64-bit words
        self.size = 0
        for start in range(0, len(descriptors), step):
            flags, exponent, size, offset, bucket_size = _DESCRIPTOR.unpack_from(descriptors, start)
            self.size = max(self.size, offset + 8 * size)
            kind, unit, base = flags & 15, flags >> 4 & 15, flags >> 8 & 15
            if kind >= len(_TYPES) or unit >= len(_UNITS) or base >= len(_BASES):
                continue
            name = descriptors[start + _DESCRIPTOR.size : start + step].split(b"\0")[0].decode()
            self.stats.append(
                Stat(name, _TYPES[kind], _UNITS[unit], _BASES[base], exponent, size, bucket_size)
            )
            first = offset // 8
            self.words.append(first if size == 1 else slice(first, first + size))


class KvmStats:
    """The statistics in a statistics file of KVM, which must stay open."""

    def __init__(self, fd: int, layout: KvmLayout) -> None:
        self._fd = fd
        self._layout = layout

    @property
    def stats(self) -> Sequence[Stat]:
        """The statistics, in a fixed order."""
        return self._layout.stats

    def read(self) -> Sequence[StatValue]:
        """Return all values, in the order of `stats`."""
        layout = self._layout
        data = memoryview(os.pread(self._fd, layout.size, layout.data_offset)).cast("Q").tolist()
        return [
            bool(data[where]) if stat.unit == "boolean" else data[where]
            for stat, where in zip(layout.stats, layout.words, strict=True)
        ]
