"""The options of the command line, all in one table.

To add an option:

1. Write a function with the decorator `@option(name, argument, text)` in `machine`, `disks`,
   `monitors`, `objects` or `process` of this package. It parses the option's value into a field of
   `Settings`, and raises `OptionError` for a wrong value, in QEMU's words where it has the
   option.
2. Add the field to `qmpserver.cli.settings.Settings`. It takes effect in `qmpserver.cli.assembly`,
   which makes the machine, or in `qmpserver.cli.run`.
3. Add the option's line to `README.md` of `qmpserver/cli`; a test compares it with the table.

Beside `-fake`, an option is used by default; one that only a real machine can honour needs
`with_fake=WithFake.IGNORED` or `REFUSED`.

The table is also the source of `-help`, of `query-command-line-options` (the decorator's `group`
and `parameters`), and of the options that a stand-in ignores or refuses (`with_fake`).

Import modules of `qmpserver.vm` and `qmpserver.web` inside the functions only: `-fake` runs without
them.
"""

from qmpserver.cli.options import disks, machine, monitors, objects, process
from qmpserver.cli.table import ALIASES, OPTIONS, PARAMETERS, Option, WithFake

__all__ = [
    "ALIASES",
    "OPTIONS",
    "PARAMETERS",
    "Option",
    "WithFake",
    "disks",
    "machine",
    "monitors",
    "objects",
    "process",
]
