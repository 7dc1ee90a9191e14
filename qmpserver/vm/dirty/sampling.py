"""Page sampling: an estimate of the share of RAM that has changed, from some of its pages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qmpserver.vm.accel.native._native import ffi, lib

if TYPE_CHECKING:
    from qmpserver.vm.accel.memory import Ram

GIB = 1 << 30


class Sample:
    """Fingerprints of pages chosen at random: `pages_per_gib` per GiB of RAM, and at least one.

    A page counts as changed if its contents differ; a page that was written to with the same
    contents does not. If a share p of pages has changed, n sampled pages give an estimate with the
    standard error sqrt(p (1 - p) / n): with 512 pages, half of them changed, the error is below
    4.4 % of all pages in 95 % of cases.

    The constructor and `changed` take a few microseconds per page. Any thread; guests need not
    stop.
    """

    def __init__(self, ram: Ram, pages_per_gib: int) -> None:
        self._ram = ram
        self._seed = int.from_bytes(os.urandom(8))
        self._prints = ffi.new("uint64_t[]", max(1, ram.size * pages_per_gib // GIB))
        lib.sample_take(ram.address, ram.pages, self._seed, self._prints, len(self._prints))

    def changed(self) -> float:
        """Return the share of the sampled pages that have changed, from 0 to 1."""
        changed = lib.sample_changed(
            self._ram.address, self._ram.pages, self._seed, self._prints, len(self._prints)
        )
        return int(changed) / len(self._prints)
