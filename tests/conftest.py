"""What tests of several parts share: accelerators to run on, C compiled for a test, polling."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

NATIVE = Path(__file__).parents[1] / "qmpserver" / "vm" / "accel" / "native"
PATIENCE = 20.0

CLibrary = Callable[[str, str], Any]
Until = Callable[..., None]


def listens(path: str | Path) -> bool:
    """Whether a server can be connected to; its socket's file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def terminate(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM to a child, also one that has just ended.

    Its own method reaps the child then, and asyncio, which is late, takes its status for 255.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)


@pytest.fixture
def kvm() -> None:
    """For tests of KVM itself."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm can't be opened")


@pytest.fixture
def qemu() -> None:
    """For tests that compare with the real one."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")


@pytest.fixture(params=["soft", "kvm"])
def accel(request: pytest.FixtureRequest) -> str:
    """Each accelerator that works here."""
    name: str = request.param
    if name == "kvm":
        request.getfixturevalue("kvm")
    return name


@pytest.fixture(scope="session")
def c_library(tmp_path_factory: pytest.TempPathFactory) -> CLibrary:
    """Compile C text that may include the native headers; returns ``(ffi, lib)`` for its cdef."""

    def build(cdef: str, source: str) -> Any:
        path = tmp_path_factory.mktemp("native")
        (path / "part.c").write_text(source)
        command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command += [f"-I{NATIVE}", "part.c", "-o", "part.so"]
        subprocess.run(command, cwd=path, check=True, timeout=60)
        ffi = FFI()
        ffi.cdef(cdef)
        return ffi, ffi.dlopen(str(path / "part.so"))

    return build


@pytest.fixture(scope="session")
def until() -> Until:
    """Poll a condition that no event tells of; fails after a while."""

    def wait(condition: Callable[[], object], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, "it does not come true"
            time.sleep(0.001)

    return wait
