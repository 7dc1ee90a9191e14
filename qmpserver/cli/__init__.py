"""The command line of `qmpserver`: options in, a running machine or stand-in out.

`main` is the process and `run` its time on the event loop. `commandline` makes `settings` from the
rows that `options` adds to `table`; `assembly` makes a machine from settings.
"""
