"""The qcow2 format: what the header of an image tells, and images without data."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

MAGIC = b"QFI\xfb"
MAX_NAME = 1023
"""Bytes of the name of a backing file."""

MAX_L1 = 32 << 20
"""Bytes of the table that leads to all others."""

CLUSTER = 1 << 16
"""Bytes of a cluster, unless something else is wanted."""

REFCOUNT_BITS = 16
"""Bits of the count of a cluster's users, unless something else is wanted."""

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # the whole of version 2
_MORE = struct.Struct(">QQQIIB7x")  # of version 3
_EXTENSION = struct.Struct(">II")
_END, _BACKING_FORMAT = 0, 0xE2792ACA  # types of extensions
_MAX_EXTENSIONS = 1 << 16
_LAZY, _ZSTD, _EXTENDED = 1 << 0, 1 << 3, 1 << 4


class Qcow2(NamedTuple):
    """An image without data; sizes in bytes.

    Attributes:
        size: The size of the disk.
        backing: The name of its backing file, or "".
        backing_format: The format of the backing file, or "".
        version: 2 or 3.
        cluster_size: The unit of its layout, a power of two.
        refcount_bits: The width of the count of a cluster's users, a power of two.
        lazy: Whether these counts may be written late.
        extended: Whether clusters have subclusters.
        zstd: Whether compressed clusters are so by zstd.
    """

    size: int
    backing: str = ""
    backing_format: str = ""
    version: int = 3
    cluster_size: int = CLUSTER
    refcount_bits: int = REFCOUNT_BITS
    lazy: bool = False
    extended: bool = False
    zstd: bool = False

    @property
    def l1_size(self) -> int:
        """The bytes of the first table, which has an entry for each cluster of the second ones."""
        entry = 16 if self.extended else 8
        return 8 * -(-self.size // (self.cluster_size // entry * self.cluster_size))

    @property
    def header_size(self) -> int:
        """The bytes of the header; they must fit into a cluster."""
        return len(self._header(0, 0, 0))

    def write(self, fd: int) -> None:
        """Write the image into a file, in place of its content; the file does not shrink.

        Raises:
            OSError: That fails.
        """
        cluster = self.cluster_size
        l1_clusters = -(-self.l1_size // cluster)
        per_block = 8 * cluster // self.refcount_bits
        blocks = tables = 1
        while True:
            clusters = 1 + tables + blocks + l1_clusters
            needed = -(-clusters // per_block)
            if needed <= blocks and 8 * blocks <= tables * cluster:
                break
            blocks = max(blocks, needed)
            tables = -(-8 * blocks // cluster)
        first_block, l1 = (1 + tables) * cluster, (1 + tables + blocks) * cluster
        end = max(os.fstat(fd).st_size, l1 + self.l1_size)
        os.ftruncate(fd, 0)
        os.ftruncate(fd, end)
        at = range(first_block, l1, cluster)
        os.pwrite(fd, self._header(l1, cluster, tables), 0)
        os.pwrite(fd, struct.pack(f">{blocks}Q", *at), cluster)
        os.pwrite(fd, _ones(clusters, self.refcount_bits), first_block)

    def _header(self, l1: int, table: int, tables: int) -> bytes:
        more = b""
        if self.version > 2:
            incompatible = _ZSTD * self.zstd | _EXTENDED * self.extended
            order, size = self.refcount_bits.bit_length() - 1, _HEADER.size + _MORE.size
            more = _MORE.pack(incompatible, _LAZY * self.lazy, 0, order, size, self.zstd)
        if self.backing_format:
            name = self.backing_format.encode()
            more += _EXTENSION.pack(_BACKING_FORMAT, len(name)) + name + bytes(-len(name) % 8)
        more += _EXTENSION.pack(_END, 0)
        backing = self.backing.encode()
        at = _HEADER.size + len(more) if backing else 0
        bits = self.cluster_size.bit_length() - 1
        header = (MAGIC, self.version, at, len(backing), bits, self.size, 0, self.l1_size // 8, l1)
        return _HEADER.pack(*header, table, tables, 0, 0) + more + backing


def _ones(number: int, bits: int) -> bytes:
    """Return numbers 1, of a width in bits."""
    if bits >= 8:
        return (1).to_bytes(bits // 8, "big") * number
    full, left = divmod(number, 8 // bits)
    filled, last = (sum(1 << bits * one for one in range(ones)) for ones in (8 // bits, left))
    return bytes([filled]) * full + bytes([last])


def read(fd: int) -> Qcow2 | None:
    """Return the size and the backing file that the header of an image tells.

    Returns:
        None if the file is no such image.

    Raises:
        OSError: The file cannot be read.
    """
    header = os.pread(fd, _HEADER.size + _MORE.size, 0)
    if not header.startswith(MAGIC) or len(header) < _HEADER.size:
        return None
    _, version, at, length, _, size, *_ = _HEADER.unpack_from(header)
    if length > MAX_NAME or at >= 1 << 63:
        return Qcow2(size)
    backing = os.pread(fd, length, at).decode(errors="replace")
    start = _HEADER.size
    if version > 2 and len(header) == _HEADER.size + _MORE.size:
        start = _MORE.unpack_from(header, start)[4]
    return Qcow2(size, backing, _backing_format(fd, start))


def _backing_format(fd: int, start: int) -> str:
    """Return the format of the backing file that an extension of the header names, or ""."""
    data = os.pread(fd, _MAX_EXTENSIONS, start)
    at = 0
    while at + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if kind == _BACKING_FORMAT:
            return data[at : at + length][:MAX_NAME].decode(errors="replace")
        if kind == _END:
            break
        at += length + -length % 8
    return ""
