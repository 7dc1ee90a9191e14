"""qmpctl as a program, as the tests of `tools` run it, on one accelerator."""

import os

import pytest

from tests.tools.conftest import qmpctl

__all__ = ["qmpctl"]


@pytest.fixture(scope="module")
def accel() -> str:
    """KVM, or the software accelerator where KVM cannot be used: the programs are the same."""
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "soft"
