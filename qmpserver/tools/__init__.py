"""The program `qmpctl`: a client of any QMP server, QEMU included.

It speaks QMP over a socket and imports nothing of a server's inside; only the commands `bench` and
`guest`, which live in `qmpserver.bench`, need the engine. `commands/__init__.py` says how to add a
command.
"""
