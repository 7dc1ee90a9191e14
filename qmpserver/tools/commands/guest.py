"""Write the guest 'dirty' as a firmware image, for QEMU's -bios FILE."""

from __future__ import annotations

import argparse
from pathlib import Path

from qmpserver.machine.guest import GuestError
from qmpserver.machine.options import GUEST
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.firmware import firmware_image, ram_size


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: those of ``-guest dirty``, and what the machine will have."""
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument(
        "--ram", type=_size, default="512M", help="as -m of the machine (%(default)s)"
    )
    parser.add_argument("--smp", type=int, default=1, help="how many vCPUs run it (%(default)s)")
    parser.add_argument("--pattern", help="sequential, random or hotspot")
    parser.add_argument("--pages", help="of each vCPU's working set; an equal share of the RAM")
    parser.add_argument("--size", help="the same in bytes, such as 64M")
    parser.add_argument("--rate", help="MB/s that each vCPU keeps to; full speed")
    parser.add_argument("--clock-hz", type=int, default=0, help="frequency of the machine's TSC")
    parser.epilog = """Then, for a machine whose memory bench and others may watch:

  qemu-system-x86_64 -accel kvm,dirty-ring-size=4096 -m 512M -bios FILE \\
    -object memory-backend-memfd,id=ram,size=512M,share=on \\
    -machine pc,memory-backend=ram -display none -nodefaults \\
    -qmp unix:/tmp/q.sock,server=on,wait=off"""


def _size(text: str) -> int:
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
