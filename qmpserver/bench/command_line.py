"""The commands that launch servers, completed with the options that a measurement needs."""

from __future__ import annotations

import os
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from qmpserver.bench.firmware import firmware_image, ram_size
from qmpserver.tools.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RAM_MIB = 512
QEMU = os.environ.get("QEMU", "qemu-system-x86_64")
"""The QEMU to measure, if a command line names no other."""


def has_qemu() -> bool:
    """Return whether QEMU is installed."""
    return shutil.which(QEMU) is not None


def _option(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option of a command line; None if it is not there."""
    options = words[3:] if words[1:3] == ["-m", "qmpserver.cli"] else words[1:]  # -m is Python's
    given = [value for word, value in pairwise(options) if word.lstrip("-") == name]
    return given[-1] if given else None


def _number(text: str, key: str) -> str:
    """Return the number in `N,...` or `key=N,...`."""
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        if name in ("", key):
            return value
    return text


def command_line(
    server: str,
    directory: str,
    *,
    vcpus: int,
    accel: str,
    ram: str = f"{RAM_MIB}M",
    guest: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the words of a server's command, completed for a measurement.

    Added are `-accel`, `-smp` and `-m` if the command leaves them open, a QMP socket in
    `directory`, and the options that make QEMU run the guest `dirty` from memory that can be
    watched. `guest` has options of that guest, other than `rate`.

    Raises:
        UsageError: The command makes no sense.
    """
    words = shlex.split(server)
    if not words:
        raise UsageError("--server needs a command")
    if _option(words, "accel") is None:
        words += ["-accel", accel]
    if (smp := _option(words, "smp")) is None:
        words += ["-smp", str(vcpus)]
    elif not _number(smp, "cpus").isdecimal():
        raise UsageError(f"-smp {smp}: the number of vCPUs must be given as N or cpus=N")
    if (memory := _option(words, "m")) is None:
        words += ["-m", memory := ram]
    words += ["-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    if "qemu-system" in words[0]:
        if _option(words, "bios") is None:
            memory = _number(memory, "size")
            size = ram_size(memory)
            cpus = vcpus if smp is None else int(_number(smp, "cpus"))
            firmware = Path(directory) / "dirty.bin"
            firmware.write_bytes(firmware_image(size, cpus, guest))
            words += ["-bios", str(firmware)]
            words += ["-object", f"memory-backend-memfd,id=ram,size={size},share=on"]
            words += ["-machine", "pc,memory-backend=ram"]
        words += ["-display", "none", "-nodefaults", "-name", "debug-threads=on"]
    elif guest and _option(words, "guest") is None:
        words += ["-guest", ",".join(["dirty", *(f"{k}={v}" for k, v in guest.items())])]
    return words
