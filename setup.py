"""Build the C extension, which pyproject.toml cannot describe, on the systems that it is for."""

import os
import sys
import sysconfig

from setuptools import setup

if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
    stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")
    setup(
        cffi_modules=["qmpserver/vm/accel/native/build.py:ffibuilder"],
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
    )
else:
    setup()
