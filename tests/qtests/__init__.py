"""QEMU's own qtests, run against this program."""
