"""The built-in guest `stress`: its option, and its initial image in guest memory.

Its machine code and its control blocks are declared in `accel/native/stress.h`. It runs on KVM.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from qmpserver.vm.accel import Entry
from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.guest import GuestError, page, page_tables, parse_pages, working_set
from qmpserver.vm.machine.options import STRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from mmap import mmap

_CONTROL = struct.Struct("<8Q")
_LINE_OFFSET: int = ffi.offsetof("struct stress_guest", "line")


class StressGuest:
    """The guest in a machine's RAM, where guest-physical address 0 is the first byte of `ram`.

    Args:
        options: The options of `-guest stress`, by name.
        ram: The machine's RAM.
        vcpus: The number of vCPUs.
        clock_hz: The frequency of the vCPUs' time stamp counter.
        read_clock: Returns that counter's value.

    Raises:
        GuestError: An option is invalid, or the working sets do not fit into RAM.
    """

    rom = None

    def __init__(
        self,
        options: Mapping[str, str],
        ram: mmap | memoryview,
        vcpus: int,
        clock_hz: int,
        read_clock: Callable[[], int],
    ) -> None:
        for name in options:
            if name not in STRESS:
                raise GuestError(
                    f"guest stress: unknown option '{name}'; expected {', '.join(STRESS)}"
                )
        if not 1 <= vcpus <= lib.STRESS_MAX_VCPUS:
            raise GuestError(f"guest stress: {vcpus} vCPUs; expected 1 to {lib.STRESS_MAX_VCPUS}")
        requested = parse_pages("stress", options["size"]) if "size" in options else None
        self._pages = working_set("stress", requested, len(ram), vcpus)
        self._ram = ram
        self._vcpus = vcpus
        self._ticks_per_ms = clock_hz // 1000
        self._read_clock = read_clock

    def load(self) -> range:
        """Write the initial image to memory and return the pages written.

        The guest is told the time of day. No vCPU may run. The working sets keep their contents.
        """
        code = ffi.buffer(lib.guest_stress_code, lib.guest_stress_code_end - lib.guest_stress_code)
        since = self._read_clock() // self._ticks_per_ms
        epoch = time.time_ns() // 1_000_000 - since
        image = b"".join(
            (
                page_tables(),
                page(bytes(code)),
                os.urandom(PAGE_SIZE),  # nothing that a sender would find easy to compress
                *(page(self._control_block(index, epoch)) for index in range(self._vcpus)),
            )
        )
        start: int = lib.GUEST_IMAGE
        self._ram[start : start + len(image)] = image
        return range(start // PAGE_SIZE, (start + len(image)) // PAGE_SIZE)

    def entry(self, cpu_index: int) -> Entry:
        """Return the start address and registers of a vCPU; it needs no stack."""
        return Entry(lib.GUEST_CODE, self._control(cpu_index), lib.GUEST_IMAGE)

    def _control(self, cpu_index: int) -> int:
        return int(lib.STRESS_CONTROL) + cpu_index * PAGE_SIZE

    def _control_block(self, cpu_index: int, epoch: int) -> bytes:
        now = f"stress ({cpu_index:05}): INFO: {0:013}"
        took = f"{now}ms copied 1 GB in {0:08}"
        line = f"{took}ms\r\n"
        start = self._control(cpu_index) + _LINE_OFFSET
        block = _CONTROL.pack(
            lib.GUEST_SETS + cpu_index * self._pages * PAGE_SIZE,
            self._pages,
            self._ticks_per_ms,
            epoch % (1 << 64),
            start + len(now),
            start + len(took),
            start + len(line),
            0,
        )
        return block + line.encode()
