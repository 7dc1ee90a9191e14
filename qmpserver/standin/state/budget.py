"""The bound on all that clients have a stand-in keep: devices, backends, nodes, jobs, files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 16 << 20
"""Bytes that all of it may have together."""

LARGEST = 1 << 20
"""Bytes that one entry of a `Kept` may have."""


class Budget:
    """The bytes that are left of `KEPT`.

    Attributes:
        births: Numbers for new entries.
    """

    def __init__(self) -> None:
        self._left = KEPT
        self.births = itertools.count()

    def take(self, size: int) -> bool:
        """Take `size` bytes, also fewer than 0; return False, and take none, if there are fewer."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def charge(self, size: int) -> None:
        """Take `size` bytes.

        Raises:
            CommandError: There are fewer.
        """
        if not self.take(size):
            raise CommandError(f"a stand-in keeps {KEPT} bytes of devices, backends and files")


class Kept(MutableMapping[str, dict[str, Any]]):
    """A dict of properties by id that takes its memory from a budget.

    An entry is replaced, not changed, unless its size stays the same.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._entries: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        self._births: dict[str, int] = {}

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._entries[name]

    def __setitem__(self, name: str, properties: dict[str, Any]) -> None:
        """Add or replace an entry.

        Raises:
            CommandError: It is too large, or the budget is used up.
        """
        size = _size({name: properties})
        if size > LARGEST:
            raise CommandError(f"the properties are too large: a stand-in keeps {LARGEST} bytes")
        self._budget.charge(size - self._sizes.get(name, 0))
        self._entries[name] = properties
        self._sizes[name] = size
        if name not in self._births:
            self._births[name] = next(self._budget.births)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._budget.take(-self._sizes.pop(name))
        del self._births[name]

    def birth(self, name: str) -> int:
        """Return a number that is greater than that of each older entry with the same budget."""
        return self._births[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _size(value: object) -> int:
    """Return the bytes of a JSON value, or a number above `LARGEST` if there are more."""
    size, left = 0, [value]
    while left and size <= LARGEST:
        one = left.pop()
        size += sys.getsizeof(one)
        if isinstance(one, dict):
            left += one
            left += one.values()
        elif isinstance(one, list):
            left += one
    return size
