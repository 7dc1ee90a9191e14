"""Shared by tests of several rooms: accelerators to run on, C compiled for a test, polling."""

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A shell that runs the tests in the background makes them, and all their children, ignore SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NATIVE = Path(__file__).parents[1] / "qmpserver" / "vm" / "accel" / "native"
PATIENCE = 20.0
HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)
ACCEPTS = "00010000"  # the flag of a listening socket in /proc/net/unix

CLibrary = Callable[[str, str], Any]
Until = Callable[..., None]


def listens(path: str | Path) -> bool:
    """Return whether a server listens on a UNIX socket; the socket's file exists a moment earlier.

    The kernel is asked instead of the server, whose only client a connection could be.
    """
    lines = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(words[3] == ACCEPTS and words[7:] == [str(path)] for words in lines)


def readable(source: Any, seconds: float) -> bool:
    """Wait until a file or descriptor can be read; select() would refuse those above 1023."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(max(seconds, 0) * 1000))


def terminate(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM to a child that may have just ended.

    `process.terminate()` would reap a child that has ended, and asyncio would report status 255.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the most slow tests first, so that parallel runs end at about one time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def kvm() -> None:
    """Skip the test where KVM cannot be used."""
    if not HAS_KVM:
        pytest.skip("/dev/kvm cannot be opened")


def require_engine() -> None:
    """Skip the test where the native engine cannot be imported."""
    pytest.importorskip("qmpserver.vm.accel.native", exc_type=ImportError)


@pytest.fixture
def engine() -> None:
    """Skip the test where the native engine cannot be imported."""
    require_engine()


@pytest.fixture(scope="session")
def qemu() -> None:
    """Skip the test where QEMU is not installed."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")


@pytest.fixture
def newer_qemu() -> str:
    """Return the program of QEMU that the variable `QEMU` names, or else the system's.

    Skip the test where it is not installed, or is older than 11.1; `.ci/qemu` brings such a one.
    """
    program = shutil.which(os.environ.get("QEMU", "qemu-system-x86_64"))
    if program is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    shown = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    version = re.search(r"version (\d+)\.(\d+)", shown.stdout)
    if version is None or (int(version[1]), int(version[2])) < (11, 1):
        pytest.skip("QEMU is older than 11.1")
    return program


@pytest.fixture(params=["soft", "kvm"])
def accel(request: pytest.FixtureRequest) -> str:
    """Run the test on each accelerator; on `kvm` only where it can be used."""
    require_engine()
    name: str = request.param
    if name == "kvm":
        request.getfixturevalue("kvm")
    return name


@pytest.fixture(scope="session")
def c_library(tmp_path_factory: pytest.TempPathFactory) -> CLibrary:
    """Return a function that compiles C text, which may include the native headers.

    It takes a cdef and the text, and returns `(ffi, lib)`.
    """
    cffi = pytest.importorskip("cffi")

    def build(cdef: str, source: str) -> Any:
        path = tmp_path_factory.mktemp("native")
        (path / "part.c").write_text(source)
        command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command += [f"-I{NATIVE}", "part.c", "-o", "part.so"]
        subprocess.run(command, cwd=path, check=True, timeout=60)
        ffi = cffi.FFI()
        ffi.cdef(cdef)
        return ffi, ffi.dlopen(str(path / "part.so"))

    return build


@pytest.fixture(scope="session")
def until() -> Until:
    """Return a function that polls a condition that has no event, and fails after a while."""

    def wait(condition: Callable[[], object], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true"
            time.sleep(0.001)

    return wait
