"""Build the C extension, which pyproject.toml cannot describe, on the systems that it is for."""

import os
import sys

from setuptools import setup

if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
    setup(cffi_modules=["qmpserver/vm/accel/native/build.py:ffibuilder"])
else:
    setup()
