"""The contract of a migration, without a machine.

Names, rules and refusals of QEMU's migration commands, for everything that speaks them: the
machine, the stand-in and `qmpctl`. Nothing here reads a clock or knows a guest; only `channels`
opens descriptors, with messages in the format of `wire`. Error messages are QEMU 11.1's.
"""
