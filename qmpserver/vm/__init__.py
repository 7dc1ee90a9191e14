"""The machine that is there: everything that needs the native engine, and nothing else.

Outside this package only `qmpserver.cli`, `qmpserver.web`, `qmpserver.bench` and, for a test that
asks for a real machine, `qmpserver.testing` import it.
"""
