"""The C data plane; `_native` is compiled from the files beside this one by `build.py`.

C has all code on the paths guest -> ring -> harvest -> throttle and kick -> wake. Python has the
rest: it opens devices, lays out memory, makes decisions, and reports counters.

Where `_native` cannot be imported, neither can this package; the error's text is for the user.
"""

try:
    import qmpserver.vm.accel.native._native  # noqa: F401
except ImportError as error:
    from qmpserver.vm.accel.native.missing import explain

    raise ImportError(explain(error), name=f"{__name__}._native") from error
