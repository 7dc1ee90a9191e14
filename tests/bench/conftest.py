"""qmpctl as a program, as the tests of `tools` run it, on one accelerator."""

import pytest

from tests.conftest import HAS_KVM
from tests.tools.conftest import qmpctl

__all__ = ["qmpctl"]


@pytest.fixture(scope="module")
def accel() -> str:
    """KVM, or the software accelerator where KVM cannot be used: the programs are the same."""
    return "kvm" if HAS_KVM else "soft"
