"""qmpctl as a program, as the tests of `tools` run it."""

from tests.tools.conftest import qmpctl

__all__ = ["qmpctl"]
