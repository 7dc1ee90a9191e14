"""Drives: what a block device of the guest reads from, QEMU's block backends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from qmpserver.standin.state.budget import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpserver.standin.state.budget import Budget


class Drives(Kept):
    """All drives by a key of their own, in the order of their creation.

    A drive has these members:

    - `name`: its id, for a drive of `-drive`; "" for one that came with its device
    - `node`: the node of its medium; None without a medium
    - `device`: the key of the device that has it, or None
    - `writes`: whether that device writes to it
    - `tray-open`: whether its tray is open
    - `reports`: whether errors never stop the guest
    - `throttle`: its limits, or None
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._numbers = itertools.count()

    def add(self, name: str = "", node: str | None = None, **more: Any) -> str:
        """Add a drive, and return its key.

        Raises:
            CommandError: Too much is kept.
        """
        key = str(next(self._numbers))
        self[key] = {
            "name": name, "node": node, "device": None, "writes": False, "tray-open": False,
            "reports": False, "throttle": None, **more,
        }  # fmt: skip
        return key

    def change(self, key: str, **members: Any) -> None:
        """Change members of a drive."""
        self[key] = {**self[key], **members}

    def named(self, name: str | None) -> str | None:
        """Return the key of the drive with an id; None if there is none."""
        return next((key for key, one in self.items() if name and one["name"] == name), None)

    def of(self, device: str) -> str | None:
        """Return the key of the drive that a device has; None if it has none."""
        return next((key for key, one in self.items() if one["device"] == device), None)

    def with_node(self, node: str) -> Iterator[str]:
        """Yield the keys of the drives whose medium is a node."""
        return (key for key, one in list(self.items()) if one["node"] == node)

    def shown(self) -> list[dict[str, Any]]:
        """Return the drives that queries show: those with a name or a device."""
        return [one for one in self.values() if one["name"] or one["device"] is not None]
