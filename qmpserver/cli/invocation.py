"""The name that the program was called by: by a name of QEMU, it is a stand-in.

Programs that start QEMU by its name, and pass nothing else on, get a stand-in from a link to this
program. Its scenario is the file beside the link with the link's name and `.toml` or `.qmp`. Where
a fork server listens on a socket there, with `.fork`, the stand-in is forked from it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_UPSTREAM = "qemu-system-"
_DISTRIBUTIONS = ("qemu-kvm", "kvm")  # Red Hat's, and Debian's
FORK_SERVER = ".fork"
_SUFFIXES = (".toml", ".qmp")
_FAKE = frozenset({"-fake", "--fake"})


def is_qemu(program: str) -> bool:
    """Return whether a program's path ends in the name of a QEMU."""
    name = os.path.basename(program)
    return name.startswith(_UPSTREAM) or name in _DISTRIBUTIONS


def shown_name(program: str) -> str:
    """Return the name that messages begin with; clients show them as a QEMU's."""
    return os.path.basename(program) if is_qemu(program) else "qmpserver"


def arguments(argv: Sequence[str]) -> list[str]:
    """Return the options of a command line, whose first word is the program.

    Those of a stand-in are added if the program is called as QEMU is.
    """
    program, *words = argv
    if not is_qemu(program) or not _FAKE.isdisjoint(words):
        return words
    found = [file for suffix in _SUFFIXES if os.path.exists(file := program + suffix)]
    return ["-fake", found[0].replace(",", ",,") if found else "default", *words]
