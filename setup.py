"""What pyproject.toml can't say: how the C part is built."""

from setuptools import setup

setup(cffi_modules=["qmpserver/vm/accel/native/build.py:ffibuilder"])
