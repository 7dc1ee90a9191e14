"""Starts this program as guestperf starts QEMU; it is the `--binary` of the real program.

guestperf's guest is a Linux kernel, whose init stresses as many GB of memory as the kernel's
command line says. This program boots no kernel: the guest `stress` does that work in its place.
"""

import itertools
import os
import re
import sys

LINUX = ("-kernel", "-initrd", "-append")


def words(given: list[str]) -> list[str]:
    """Return the program's words for guestperf's."""
    options = dict(itertools.pairwise(given))
    stressed = re.search(r"\bramsize=(\d+)", options["-append"])
    if stressed is None:
        raise SystemExit(f"guestperf's -append has no ramsize=: {options['-append']}")
    kept: list[str] = []
    rest = iter(given)
    for word in rest:
        if word in LINUX:
            next(rest)
        else:
            kept.append(word)
    share = (int(stressed[1]) << 30) // int(options["-smp"]) // 4096 * 4096
    return [*kept, "-guest", f"stress,size={share}"]


if __name__ == "__main__":
    release, *given = sys.argv[1:]
    program = [sys.executable, "-m", "qmpserver.cli", "-release", release, *words(given)]
    os.execv(sys.executable, program)
