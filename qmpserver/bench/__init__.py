"""The measurements of `qmpctl bench`, a module each.

Times are taken with CLOCK_MONOTONIC and begin with the request, since a client waits from then on.

To add a measurement, write `bench/NAME.py`. Its docstring is the command's help; its function
`configure(parser)` adds the options, and `run(args)` returns the exit status or raises
`QmpctlError`. Then name it in `BENCHES` of `bench/menu.py`, and in `PLAN` of `bench/compare.py` if
the report should have it. `bench/servers.py` runs the servers that it measures, `bench/report.py`
shows, stores and plots its result.
"""
