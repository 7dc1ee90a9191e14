"""Servers for the examples, and functions that run an example as a user would."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conftest import Until, listens

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 60.0
COMPILE_PATIENCE = 280.0
# `python`, `qmpserver` and `qmpctl` are those of the environment that runs the tests.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

GO = {**ENVIRONMENT, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}

Serve = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]
RING = ["-accel", "kvm,dirty-ring-size=4096", "-accel", "soft,dirty-ring-size=4096"]
QEMU = ["qemu-system-x86_64", "-accel", "kvm,dirty-ring-size=4096", "-accel", "tcg"]
QEMU += ["-display", "none", "-nodefaults"]


@pytest.fixture(scope="session")
def serve(until: Until) -> Serve:
    """Run a server on a socket while the context lasts; it may end earlier."""

    @contextlib.contextmanager
    def run(
        path: Path, *options: str, program: list[str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        ours = [sys.executable, "-m", "qmpserver.cli", *RING]
        qmp = f"unix:{path},server=on,wait=off"
        argv = [*(program or ours), "-smp", "2", "-m", "64M", *options, "-qmp", qmp]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            try:
                until(lambda: listens(path))
                yield process
            finally:
                process.terminate()
                process.wait(PATIENCE)

    return run


@pytest.fixture(params=["qmpserver", "qemu"])
def server(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Iterator[Path]:
    """The socket of this server, then of a real QEMU."""
    program = None
    if request.param == "qemu":
        request.getfixturevalue("qemu")
        request.getfixturevalue("kvm")  # QEMU has a dirty limit only with KVM
        program = QEMU
    with serve(tmp_path / "q.sock", program=program):
        yield tmp_path / "q.sock"


def run(*argv: str | Path, status: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end; check `status` (None: any), and that it prints no traceback."""
    ran = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
        env={**ENVIRONMENT, **more},
    )
    assert "Traceback" not in ran.stderr
    assert status in (None, ran.returncode), ran.stderr
    return ran


def needs_go() -> None:
    """Skip where Go or its QMP library is missing."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed (golang-go)")
    if not Path("/usr/share/gocode/src/github.com/digitalocean/go-qemu").is_dir():
        pytest.skip("Go's QMP library is not installed (golang-github-digitalocean-go-qemu-dev)")


@pytest.fixture(scope="session")
def go() -> None:
    """Compile everything that the examples in Go need: minutes on a new machine, then cached."""
    needs_go()
    subprocess.run(
        ["go", "test", "-run", "^$", "./examples/go"],
        cwd=ROOT,
        env=GO,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=COMPILE_PATIENCE,
    )


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Send SIGINT; return the exit status, standard output and standard error."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err
