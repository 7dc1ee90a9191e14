"""The human monitor's commands (HMP): handlers that execute QMP commands and format the results.

To add an HMP command:

1. Write `async def _NAME(monitor: HumanMonitor, ...) -> str`, in `migration.py` for a migration, in
   `info.py` for another subcommand of `info`, and in `table.py` otherwise; for state that only a
   stand-in has, in `qmpserver.standin.human` or `humaninfo`. It calls
   `monitor.qmp("qmp-command", ...)` and returns the text to show. Its parameters are the keys of
   the command's arguments.
2. Add a row to the table at the end of the module, with the arguments, parameters and help of
   the newest QEMU's help (`HumanCommand` in `qmpserver.monitor.hmp` explains the notation). Where
   another release differs, `qmpserver.releases` declares it.
3. `tests/qemu/test_hmp.py` compares the row's help and behaviour with each installed QEMU; for a
   stand-in's row, add lines to `tests/qemu/questions.py`.
"""

from qmpserver.human.monitor import HumanMonitor
from qmpserver.human.table import commands, silent

__all__ = ["HumanMonitor", "commands", "silent"]
