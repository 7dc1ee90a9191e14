"""Live migration: the guest moves to another server while it runs.

`migration.py` has the commands' side, `source.py` and `destination.py` the steps of the two
machines, `description.py` the messages; the descriptors and the format of messages are in
`qmpserver.migration`. RAM itself is moved by `accel/native/stream/`. README.md is the page on the
wire format and its safety.
"""
