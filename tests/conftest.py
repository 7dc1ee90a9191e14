"""Shared by tests of several rooms: accelerators to run on, C compiled for a test, polling."""

import asyncio
import contextlib
import functools
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
from hypothesis import HealthCheck, settings

from qmpserver.releases import NEWEST, RELEASES, Release

# A shell that runs the tests in the background makes them, and all their children, ignore SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "qmpserver" / "vm" / "accel" / "native"
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


def kill(pidfile: Path, number: int = signal.SIGKILL) -> bool:
    """Send a signal to the process of a pidfile; return False if it has ended, perhaps just now."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pidfile.read_text()), number)
        return True
    return False


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


@functools.cache
def qemu_programs() -> dict[str, str]:
    """Return the programs of QEMU that are here, by release.

    They are the one that the variable `QEMU` names, the system's, and those that `.ci/qemu` has
    brought; of two of one release, the first.
    """
    brought = map(str, sorted(ROOT.glob(".qemu/*/qemu-system-x86_64")))
    found: dict[str, str] = {}
    for name in [os.environ.get("QEMU", ""), "qemu-system-x86_64", *brought]:
        program = shutil.which(name)
        if program is not None:
            command = [program, "--version"]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if version := re.search(r"version (\d+\.\d+)", shown):
                found.setdefault(f"qemu-{version[1]}", program)
    return found


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Run the test for each release of QEMU that has a profile."""
    return RELEASES[request.param]


@pytest.fixture(scope="session")
def release_qemu(release: Release) -> str:
    """Return the program of `release`; skip the test where it is not here."""
    program = qemu_programs().get(release.name)
    if program is None:
        pytest.skip(f"{release.name} is not here; .ci/qemu brings releases")
    return program


@pytest.fixture(scope="session")
def qemu() -> str:
    """Return the first program of QEMU that is here; skip the test where there is none."""
    for program in qemu_programs().values():
        return program
    pytest.skip("QEMU is not here")


@pytest.fixture(scope="session")
def newest_qemu() -> str:
    """Return the program of the newest release of QEMU; skip the test where it is not here."""
    program = qemu_programs().get(NEWEST.name)
    if program is None:
        pytest.skip(f"{NEWEST.name} is not here; .ci/qemu brings it")
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
