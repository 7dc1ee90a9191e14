from setuptools import setup
setup(cffi_modules=["qmpserver/accel/native/build.py:ffibuilder"])
