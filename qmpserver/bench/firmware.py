"""The built-in guest `dirty` as a firmware image: what QEMU's PC boots with ``-bios FILE``.

The same machine code then runs at the same addresses as under ``-guest dirty``, so that what two
virtual machine monitors make of it can be compared. Of the server this knows the guest's bytes
only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.guest import DirtyLayout, GuestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT = 64 << 10  # QEMU takes images in multiples of it


def firmware_image(
    ram_size: int, vcpus: int, options: Mapping[str, str] | None = None, clock_hz: int = 0
) -> bytes:
    """Return the image for a machine with at least so much RAM and so many vCPUs.

    `options` are those of ``-guest dirty``. Firmware can't ask how fast the clock is: a rate needs
    `clock_hz`, the frequency of the time stamp counter. vCPU n is the one with local APIC ID n, as
    QEMU numbers those of one socket; more vCPUs than the image is for stay halted.

    Raises:
        GuestError: The guest can't be had as asked for.
    """
    options = options or {}
    if options.get("rate", "0") != "0" and clock_hz <= 0:
        raise GuestError("firmware: a rate needs the frequency of the time stamp counter")
    if vcpus > lib.GUEST_BOOT_VCPUS:
        raise GuestError(f"firmware: starts 1 to {lib.GUEST_BOOT_VCPUS} vCPUs, not {vcpus}")
    guest = DirtyLayout(options, ram_size, vcpus, clock_hz).image()
    # The boot page copies control blocks for all the vCPUs it starts; zeros are vCPUs to halt.
    guest += bytes((lib.GUEST_BOOT_VCPUS - vcpus) * PAGE_SIZE)
    content = guest + bytes(ffi.buffer(lib.guest_boot_page, PAGE_SIZE))
    return content.rjust(-(-len(content) // _UNIT) * _UNIT, b"\xff")


def ram_size(text: str) -> int:
    """Read a size as of ``-m``, which is in MiB where there is no unit; raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError(f"'{text}' is no size such as 512M or 4G")
    return int(match[1]) << ("KMGT".index(match[2].upper() or "M") + 1) * 10
