"""The C data plane; `build.py` compiles `_native` from the C files of this directory.

C has all code on the paths guest -> ring -> harvest -> throttle and kick -> wake. Python has the
rest: it opens devices, lays out memory, makes decisions, and reports counters.
"""
