"""The built-in guest `dirty` as a firmware image that QEMU's PC boots with `-bios FILE`.

The same machine code then runs at the same addresses as under `-guest dirty`, which makes two
virtual machine monitors comparable. Of the server, this module uses only the guest's bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.keyval import OptionError, parse_size
from qmpserver.vm.accel.memory import PAGE_SIZE
from qmpserver.vm.accel.native._native import ffi, lib
from qmpserver.vm.machine.guest import DirtyLayout, GuestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT = 64 << 10  # an image's size must be a multiple of it


def firmware_image(
    ram_size: int, vcpus: int, options: Mapping[str, str] | None = None, clock_hz: int = 0
) -> bytes:
    """Return the image for a machine.

    vCPU n is the one with local APIC ID n, as QEMU numbers those of one socket. vCPUs beyond
    `vcpus` stay halted.

    Args:
        ram_size: Bytes of RAM that the machine has at least.
        vcpus: The number of vCPUs that run the guest.
        options: Those of `-guest dirty`.
        clock_hz: The frequency of the time stamp counter, which firmware cannot find out; the
            option `rate` needs it.

    Raises:
        GuestError: The options are wrong, or do not fit the machine.
    """
    if not lib.guest_boot_page_end - lib.guest_boot_page:
        raise GuestError("firmware: its machine code is x86-64's, and built there only")
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
    """Return a size in bytes; it is in MiB without a unit, as with `-m`.

    Raises:
        ValueError: The text is not a size.
    """
    try:
        return parse_size("size", text, "M")
    except OptionError:
        raise ValueError(f"'{text}' is not a size such as 512M or 4G") from None
