"""The contract of a migration, without bytes and without a machine.

Names, rules and refusals of QEMU's migration commands, for everything that speaks them: the
machine, the stand-in and `qmpctl`. Nothing here opens a channel, reads a clock or knows a guest.
Error messages are QEMU 11.1's.
"""
