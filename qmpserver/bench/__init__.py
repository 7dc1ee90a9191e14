"""The measurements of ``qmpctl bench``, a module each.

Times are taken with CLOCK_MONOTONIC, and begin with the request: what a client waits for counts.
"""
