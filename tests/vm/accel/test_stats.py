"""KVM's statistics files, in the kernel's format, made by hand."""

import os
import struct
from pathlib import Path

import pytest

from qmpserver.vm.accel.stats import KvmLayout, KvmStats, Stat

NAME_SIZE = 48
# name, type, unit, base (as the kernel numbers them), exponent, offset, bucket size, values
FILE: list[tuple[str, int, int, int, int, int, int, list[int]]] = [
    ("exits", 0, 0, 0, 0, 8, 0, [2**64 - 1]),
    ("pages", 1, 1, 1, 10, 0, 0, [7]),
    ("peak_ns", 2, 2, 0, -9, 16, 0, [3]),
    ("linear", 3, 3, 0, 0, 24, 5, [1, 2, 3]),
    ("log", 4, 2, 0, -9, 48, 0, [4, 5]),
    ("blocking", 1, 4, 0, 0, 64, 0, [1]),
    ("odd_type", 5, 0, 0, 0, 72, 0, [9]),
    ("odd_unit", 0, 5, 0, 0, 80, 0, [9]),
    ("odd_base", 0, 0, 2, 0, 88, 0, [9]),
]
KNOWN = [
    Stat("exits", "cumulative"),
    Stat("pages", "instant", "bytes", 2, 10),
    Stat("peak_ns", "peak", "seconds", 10, -9),
    Stat("linear", "linear-histogram", "cycles", size=3, bucket_size=5),
    Stat("log", "log2-histogram", "seconds", 10, -9, 2),
    Stat("blocking", "instant", "boolean"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    descriptors, data = b"", bytearray(96)
    for name, kind, unit, base, exponent, offset, bucket, values in FILE:
        flags = kind | unit << 4 | base << 8
        descriptors += struct.pack("=IhHII", flags, exponent, len(values), offset, bucket)
        descriptors += name.encode().ljust(NAME_SIZE, b"\0")
        struct.pack_into(f"={len(values)}Q", data, offset, *values)
    identity = b"kvm-1".ljust(NAME_SIZE, b"\0")
    start = 24 + len(identity)
    header = struct.pack("=6I", 0, NAME_SIZE, len(FILE), 24, start, start + len(descriptors))
    path = tmp_path / "stats"
    path.write_bytes(header + identity + descriptors + data)
    return path


def test_descriptors_and_values(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        stats = KvmStats(fd, KvmLayout(fd))
        assert stats.stats == KNOWN
        assert stats.read() == [2**64 - 1, 7, 3, [1, 2, 3], [4, 5], True]
    finally:
        os.close(fd)
