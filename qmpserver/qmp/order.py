"""The order of an object's members on the wire.

QEMU keeps objects in a hash table of 512 buckets and walks it from the first
bucket to the last, both when it writes an object and when it looks for errors in
one.  So the members' names determine their order, and clients see it.
"""

from collections.abc import Iterable
from functools import lru_cache

__all__ = ["BucketSum", "bucket", "member_order"]

_BUCKETS = 512
_U32 = 0xFFFFFFFF
_SHIFTS = 24
_SHORT = 64


def bucket(name: str) -> int:
    """Return the index of the bucket in which QEMU's dictionary keeps `name`."""
    # Names may come from a client, with any length.
    return _short_bucket(name) if len(name) <= _SHORT else _bucket(name)


def _bucket(name: str) -> int:
    # Modified UTF-8: a NUL can only come from an escape sequence.
    total = BucketSum()
    total.add(name.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80"))
    return total.bucket


class BucketSum:
    """The sum from which QEMU chooses the bucket of a name that comes in pieces."""

    __slots__ = ("_key", "_length")

    def __init__(self) -> None:
        self._key = 0
        self._length = 0

    def add(self, raw: bytes) -> None:
        """Add a piece in modified UTF-8."""
        key, length = self._key, self._length
        for index in range(min(_SHIFTS, len(raw))):  # 5 and 24 have no common divisor
            key += sum(raw[index::_SHIFTS]) << ((length + index) * 5 % _SHIFTS)
        self._key, self._length = key, length + len(raw)

    @property
    def bucket(self) -> int:
        """The index of the bucket of all that was added."""
        key = self._key + 0x238F13AF * self._length
        return (1103515243 * (key & _U32) + 12345 & _U32) % _BUCKETS


_short_bucket = lru_cache(maxsize=4096)(_bucket)


def member_order(names: Iterable[str]) -> list[str]:
    """Return `names`, given in order of insertion, in QEMU's order.

    Within one bucket, the member inserted last comes first.
    """
    order = list(names)
    order.reverse()
    order.sort(key=bucket)
    return order
