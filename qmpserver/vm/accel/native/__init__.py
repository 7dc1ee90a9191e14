"""The C data plane; `_native` is compiled from the files beside this one by `build.py`.

What belongs in C: everything that runs on the way guest -> ring -> harvest -> throttle, or kick ->
wake. What belongs in Python: opening, laying out, deciding, and showing.
"""
