"""The commands of `qmpctl`, a module each.

To add a command, write `commands/NAME.py`. Its docstring is the command's help; its function
`configure(parser)` adds the options, and `run(args)` returns the exit status or raises
`QmpctlError` (see `tools/menu.py`). Then name it in `COMMANDS` of `tools/qmpctl.py`. A measurement
goes into `qmpserver/bench` instead.
"""
