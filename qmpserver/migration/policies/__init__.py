"""Convergence policies: when to harvest, how to slow the guest, when to switch over.

Pure objects without a clock and without I/O. `policy.py` is their interface, `arithmetic.py` the
mathematics that they share; each policy is a module of its own.
"""
