"""The manager beside real servers that come and go."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from manager import Policy  # examples/manager.py

from tests.examples.conftest import (
    ENVIRONMENT,
    EXAMPLES,
    PATIENCE,
    QEMU,
    Serve,
    interrupt,
    run,
)

MANAGER = EXAMPLES / "manager.py"
# Every guest dirties more than 30 MB/s; no limited one stays below 1.
QEMU_HERE = shutil.which(QEMU[0]) is not None and os.access("/dev/kvm", os.W_OK)
POLICY = '[[policy]]\nname = "greedy*"\nhigh = 30\nlimit = 20\nlow = 1\n'


class Manager:
    """A running manager, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read lines until one contains `text`."""
        assert self.process.stdout is not None
        while not self.lines or text not in self.lines[-1]:
            line = self.process.stdout.readline()
            assert line, f"it ended before {text!r}: {self.lines}"
            self.lines.append(line)

    def wait_for_all(self, *texts: str) -> None:
        """Read lines until each of `texts` was in one, in any order."""
        assert self.process.stdout is not None
        seen = len(self.lines)
        while not all(any(t in line for line in self.lines[seen:]) for t in texts):
            line = self.process.stdout.readline()
            assert line, f"it ended before {texts}: {self.lines}"
            self.lines.append(line)


@contextlib.contextmanager
def managing(directory: Path, *arguments: str | Path) -> Iterator[Manager]:
    with subprocess.Popen(
        [sys.executable, MANAGER, directory, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield Manager(process)
        finally:
            watchdog.cancel()
            process.kill()


def limits(directory: Path) -> dict[str, str]:
    """Return the names and limits of the machines, from the manager's table."""
    rows = run(sys.executable, MANAGER, directory, "--list").stdout.splitlines()[1:]
    return {row.split()[0]: row.split()[-1] for row in rows}


def test_policy_does_not_flap() -> None:
    policy = Policy("*", high=400, limit=100, low=50)
    limited = False
    course = []
    for rate in (100, 400, 401, 100, 399, 50, 49, 50, 400, 500):
        limited = policy.limits(rate, limited)
        course.append(limited)
    assert course == [False, False, True, True, True, True, False, False, False, True]


@pytest.mark.parametrize(("high", "limit", "low"), [(9, 10, 5), (20, 10, 10), (20, 10, 0)])
def test_policy_that_would_flap_is_refused(high: int, limit: int, low: int) -> None:
    with pytest.raises(ValueError, match="0 < low < limit <= high"):
        Policy("*", high, limit, low)


@pytest.mark.slow
def test_machines_come_and_go(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICY)
    with contextlib.ExitStack() as stack:
        greedy = stack.enter_context(serve(tmp_path / "a.sock", "-name", "greedy"))
        stack.enter_context(serve(tmp_path / "b.sock", "-name", "calm"))
        if QEMU_HERE:
            stack.enter_context(serve(tmp_path / "c.sock", "-name", "real", program=QEMU))
        with managing(tmp_path, "--policy", tmp_path / "p.toml") as manager:
            names = ["greedy", "calm", *(["real"] if QEMU_HERE else [])]
            manager.wait_for_all(*(f"{name}: found, running" for name in names))
            manager.wait_for("greedy: vCPU")
            assert "limit" in manager.lines[-1]
            greedy.kill()  # which leaves its socket behind
            manager.wait_for("greedy: gone")
            stack.enter_context(serve(tmp_path / "d.sock", "-name", "greedy-too"))
            manager.wait_for("greedy-too: found")
            manager.wait_for("greedy-too: vCPU")
            status, _out, err = interrupt(manager.process)
        assert status == 130
        assert "Traceback" not in err
        assert err.count("Connection refused") == 1  # the killed server's socket, reported once
        after = limits(tmp_path)
        assert after.pop("a") == "refused"
        assert after == dict.fromkeys([*names[1:], "greedy-too"], "-")  # released


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_releases_what_it_limited(serve: Serve, tmp_path: Path, number: int) -> None:
    (tmp_path / "p.toml").write_text(POLICY)
    with serve(tmp_path / "a.sock", "-name", "greedy"):
        with managing(tmp_path, "--policy", tmp_path / "p.toml") as manager:
            manager.wait_for_all("vCPU 0 dirties", "vCPU 1 dirties")
            manager.process.send_signal(number)
            assert manager.process.wait(PATIENCE) == 130
        assert limits(tmp_path) == {"greedy": "-"}


@pytest.mark.slow
def test_a_calm_guest_is_released(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICY)
    with (
        serve(
            tmp_path / "a.sock",
            "-name",
            "greedy",
            "-qmp",
            f"unix:{tmp_path}/stop,server=on,wait=off",
        ),
        managing(tmp_path, "--policy", tmp_path / "p.toml") as manager,
        socket.socket(socket.AF_UNIX) as other,
    ):
        manager.wait_for_all("vCPU 0 dirties", "vCPU 1 dirties")
        other.connect(str(tmp_path / "stop"))
        other.sendall(b'{"execute": "qmp_capabilities"} {"execute": "stop"}')
        manager.wait_for_all(
            "STOP", "vCPU 0 dirties 0 MB/s: release", "vCPU 1 dirties 0 MB/s: release"
        )


@pytest.mark.slow
def test_paths_that_are_not_machines(tmp_path: Path) -> None:
    (tmp_path / "file.sock").touch()
    (tmp_path / "folder.sock").mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        table = run(sys.executable, MANAGER, tmp_path, "--list").stdout
    assert table.splitlines()[1:] == [
        "silent           no QMP greeting: it may be serving another client"
    ]


@pytest.mark.slow
def test_invalid_policies_and_directories(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    for text, why in (
        ("[[policy]", "at line 1"),
        ("[[policy]]\nname = 'x'\nhigh = 1\nlimit = 2\nlow = 1", "0 < low < limit <= high"),
        ("[[policy]]\nname = 'x'", "missing 3 required positional arguments"),
    ):
        bad.write_text(text)
        assert why in run(sys.executable, MANAGER, tmp_path, "--policy", bad, status=2).stderr
    absent = tmp_path / "absent"
    assert "No such file" in run(sys.executable, MANAGER, absent, status=2).stderr
    assert (
        "No such file"
        in run(sys.executable, MANAGER, tmp_path, "--policy", absent, status=2).stderr
    )
    assert "Not a directory" in run(sys.executable, MANAGER, bad, status=2).stderr
