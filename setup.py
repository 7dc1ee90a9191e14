"""Build the C extension, which pyproject.toml cannot describe."""

from setuptools import setup

setup(cffi_modules=["qmpserver/vm/accel/native/build.py:ffibuilder"])
