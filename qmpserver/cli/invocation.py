"""The name that the program was called by: as `qemu-system-ARCH` it is a stand-in.

Programs that start QEMU by its name, and pass nothing else on, get a stand-in from a link to this
program. Its scenario is the file beside the link with the link's name and `.toml` or `.qmp`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "qemu-system-"
_SUFFIXES = (".toml", ".qmp")


def arguments(argv: Sequence[str]) -> list[str]:
    """Return the options of a command line, whose first word is the program.

    Those of a stand-in are added if the program is called as QEMU is.
    """
    program, *words = argv
    link = Path(program)
    if not link.name.startswith(_NAME) or not {"-fake", "--fake"}.isdisjoint(words):
        return words
    files = [link.with_name(link.name + suffix) for suffix in _SUFFIXES]
    found = [str(file).replace(",", ",,") for file in files if file.exists()]
    return ["-fake", found[0] if found else "default", *words]
