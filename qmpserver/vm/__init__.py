"""The real machine: everything that needs the native engine, and nothing else.

Outside this package only `qmpserver.cli`, `qmpserver.web`, `qmpserver.bench` and, for a test that
requests a real machine, `qmpserver.testing` import it. Inside, imports run in this direction:
`commands` -> `machine` -> `dirty`, `trace` -> `accel`.
"""
