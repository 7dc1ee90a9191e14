"""A stand-in that is called as QEMU takes and refuses command lines as QEMU does."""

from __future__ import annotations

import shlex
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from qmpserver.releases import NEWEST, Release

NAME = "qemu-system-x86_64"
PATIENCE = 60
CLUSTER = 64 << 10
NO_ERRORS = ("warning:", "failed to initialize module")  # the latter is about how QEMU is installed

# DIR stands for a directory with files.
STARTED = """
-machine none
"""

# With the words of the newest release, after its name.
REFUSED = {
    "-nonsense": "-nonsense: invalid option",
}

LINES = [*STARTED.strip().splitlines(), *REFUSED]


class Outcome(NamedTuple):
    """Whether a program starts a machine, and its errors."""

    started: bool
    errors: list[str]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with images."""
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 20)
    head += struct.pack(">IIQQIIQ", 0, 1, 3 * CLUSTER, CLUSTER, 1, 0, 0)
    counts = struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0") + struct.pack(">4H", 1, 1, 1, 1)
    image = head.ljust(CLUSTER, b"\0") + counts
    (tmp_path / "disk.qcow2").write_bytes(image.ljust(4 * CLUSTER, b"\0"))
    return tmp_path


def stand_in(directory: Path, release: Release) -> str:
    """Return a link that is a stand-in of a release."""
    link = directory / release.name / NAME
    link.parent.mkdir()
    link.symlink_to(Path(sys.executable).parent / "qmpserver")
    link.with_name(f"{NAME}.toml").write_text(f'schema = "{release.name}"\n')
    return str(link)


def outcome(program: str, line: str, directory: Path) -> Outcome:
    """Start a program with a command line, and end it as soon as it executes commands."""
    ours, its = socket.socketpair()
    with ours, its:
        ours.sendall(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
        monitor = f"-chardev socket,id=q,fd={its.fileno()} -mon q,mode=control"
        words = shlex.split(line.replace("DIR", str(directory)).replace('"', '\\"'))
        ran = subprocess.run(
            [program, *f"-accel tcg -display none -S {monitor}".split(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            pass_fds=[its.fileno()],
            check=False,
        )
    said = ran.stderr.replace(str(directory), "DIR").splitlines()
    prefix = f"{NAME}: "
    errors = [
        one for one in said if one.startswith(prefix) and not any(part in one for part in NO_ERRORS)
    ]
    return Outcome(ran.returncode == 0, [one.removeprefix(prefix) for one in errors])


def outcomes(program: str, directory: Path) -> dict[str, Outcome]:
    """Return the outcomes of all command lines."""
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda line: outcome(program, line, directory), LINES)
        return dict(zip(LINES, found, strict=True))


@pytest.mark.slow
def test_as_the_release(release: Release, release_qemu: str, directory: Path) -> None:
    ours = outcomes(stand_in(directory, release), directory)
    assert ours == outcomes(release_qemu, directory)


@pytest.mark.slow
def test_as_recorded(directory: Path) -> None:
    expected = {line: Outcome(line not in REFUSED, []) for line in LINES}
    expected |= {line: Outcome(False, [words]) for line, words in REFUSED.items()}
    assert outcomes(stand_in(directory, NEWEST), directory) == expected
