"""The reason why the native engine cannot be imported, and how to get it: one line for the user."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

MACHINES = ("x86_64", "aarch64")
KERNEL_HEADER = Path("/usr/include/linux/kvm.h")

_AGAIN = "install qmpserver again, with pip's --force-reinstall --no-cache-dir"


def explain(error: ImportError) -> str:
    """Return the line that tells why `error` came of importing the extension."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in MACHINES:
        return f"the native engine needs Linux on x86-64 or arm64, not {sys.platform} on {machine}"
    if error.name == "_cffi_backend":
        return "the native engine needs cffi: pip install cffi"
    if not isinstance(error, ModuleNotFoundError):
        return f"the native engine cannot be loaded ({error}): {_AGAIN}"
    if lacking := _lacking():
        return (
            f"the native engine was not built, for lack of {', '.join(lacking)}: install that "
            f"(Debian: apt-get install {' '.join(lacking.values())}), then {_AGAIN}"
        )
    return f"the native engine was not built: {_AGAIN} -v, which shows why"


def _lacking() -> dict[str, str]:
    """Return the requirements of the build that are not met, each with its Debian packages."""
    lacking = {}
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        lacking[f"the C compiler {compiler}"] = "gcc libc6-dev"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacking["Python.h"] = "python3-dev"
    if not KERNEL_HEADER.exists() or "KVM_CAP_SREGS2" not in KERNEL_HEADER.read_text():
        lacking["linux/kvm.h of Linux 5.15 or later"] = "linux-libc-dev"
    return lacking
