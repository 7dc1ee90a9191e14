"""The C data plane; `_native` is compiled from the files beside this one by `build.py`.

C has all code on the paths guest -> ring -> harvest -> throttle and kick -> wake. Python has the
rest: it opens devices, lays out memory, makes decisions, and reports counters.
"""
