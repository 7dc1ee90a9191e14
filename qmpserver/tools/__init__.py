"""Clients of any QMP server, QEMU included. They import nothing of the server's inside but data."""
