"""Write the guest 'dirty' as a firmware image, for -bios FILE of QEMU and of qmpserver.

  qmpctl guest --output /tmp/dirty.bin --ram 512M --smp 2
  qmpserver -bios /tmp/dirty.bin -m 512M -smp 2 ...

Each vCPU then stores to the pages of its own part of the memory, one after the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qmpserver.bench.firmware import firmware_image, ram_size
from qmpserver.tools.errors import QmpctlError
from qmpserver.vm.machine.guest import GuestError
from qmpserver.vm.machine.options import GUEST


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: those of `-guest dirty`, and the machine's."""
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="the file to write"
    )
    parser.add_argument(
        "--ram",
        type=size,
        default="512M",
        metavar="SIZE",
        help="the machine's -m (%(default)s)",
    )
    parser.add_argument(
        "--smp", type=int, default=1, metavar="N", help="the machine's -smp (%(default)s)"
    )
    parser.add_argument("--pattern", help="sequential (the default), random or hotspot")
    parser.add_argument(
        "--pages", metavar="N", help="each vCPU's working set, in pages (its share of the RAM)"
    )
    parser.add_argument("--size", help="the working set in bytes, such as 64M")
    parser.add_argument("--rate", metavar="MB/S", help="each vCPU's rate (full speed)")
    parser.add_argument("--clock-hz", type=int, default=0, help="frequency of the TSC, for --rate")
    parser.epilog = """To run it in QEMU, with memory that qmpctl bench can watch:

  qemu-system-x86_64 -accel kvm,dirty-ring-size=4096 -m 512M -bios FILE \\
    -object memory-backend-memfd,id=ram,size=512M,share=on \\
    -machine pc,memory-backend=ram -display none -nodefaults \\
    -qmp unix:/tmp/q.sock,server=on,wait=off"""


def size(text: str) -> int:
    """Return a size in bytes, of the value of an option; raise ArgumentTypeError."""
    try:
        return ram_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Write the image."""
    options = {name: getattr(args, name) for name in GUEST if getattr(args, name) is not None}
    try:
        args.output.write_bytes(firmware_image(args.ram, args.smp, options, args.clock_hz))
    except GuestError as error:
        raise QmpctlError(str(error)) from None
    except OSError as error:
        raise QmpctlError(f"{args.output}: {error.strerror}") from None
    return 0
