"""qmpctl as a program, beside servers as programs: this one and a real QEMU."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Until, listens, qemu_programs, require_engine

PATIENCE = 100.0
BIN = Path(sys.executable).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def qmpctl() -> Run:
    """Run qmpctl with some arguments; it never shows a traceback."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        if {"bench", "guest"} & {*arguments}:
            require_engine()
        ran = subprocess.run(
            [BIN / "qmpctl", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )
        assert "Traceback" not in ran.stderr
        return ran

    return run


@contextlib.contextmanager
def serving(kind: str, directory: Path, until: Until, *options: str) -> Iterator[str]:
    """Run a small machine that has a dirty ring where KVM can be used; gives its address."""
    require_engine()
    path = directory / f"{kind}.sock"
    ours = [sys.executable, "-m", "qmpserver.cli"]
    ours += ["-accel", "kvm,dirty-ring-size=4096", "-accel", "soft,dirty-ring-size=4096"]
    theirs = [
        next(iter(qemu_programs().values()), ""),
        "-accel",
        "kvm,dirty-ring-size=4096",
        "-accel",
        "tcg",
    ]
    argv = [*(ours if kind == "qmpserver" else theirs), "-smp", "2", "-m", "64M", "-S"]
    argv += ["-name", "tested", "-display", "none", "-nodefaults"]
    argv += ["-qmp", f"unix:{path},server=on,wait=off", *options]
    with subprocess.Popen(argv) as process:
        try:
            until(lambda: process.poll() is not None or listens(path))
            yield f"unix:{path}"
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture(params=["qmpserver", "qemu"], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[str]:
    """The address of this server, then of a real QEMU, stopped."""
    kind: str = request.param
    if kind == "qemu":
        request.getfixturevalue("qemu")
    with serving(kind, tmp_path_factory.mktemp("server"), until) as address:
        yield address
