"""qmpctl migrate between two real machines: of this server, then of QEMU."""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HAS_KVM, Until, listens, require_engine
from tests.tools.conftest import BIN, PATIENCE, Run

GUEST = {"size": "1M", "rate": "40"}

Start = Callable[..., str]
Pair = tuple[str, str]


@pytest.fixture(params=["soft", "kvm", "qemu"])
def machine(request: pytest.FixtureRequest, qmpctl: Run, tmp_path: Path) -> list[str]:
    """The command of a machine whose guest stores to 1 MB, 40 MB each second."""
    kind: str = request.param
    if kind == "qemu":
        program: str = request.getfixturevalue("qemu")
        image = tmp_path / "dirty.bin"
        words = [word for key, value in GUEST.items() for word in (f"--{key}", value)]
        words += ["--clock-hz", "1000000000", "--ram", "64M"]
        assert qmpctl("guest", "--output", str(image), *words).returncode == 0
        accel = "kvm,dirty-ring-size=4096" if HAS_KVM else "tcg"
        return [program, "-accel", accel, "-bios", str(image)]
    require_engine()
    if kind == "kvm":
        request.getfixturevalue("kvm")
    guest = ",".join(["dirty", *(f"{key}={value}" for key, value in GUEST.items())])
    accel = f"{kind},dirty-ring-size=4096"
    return [sys.executable, "-m", "qmpserver.cli", "-accel", accel, "-guest", guest]


@pytest.fixture
def start(machine: list[str], tmp_path: Path, until: Until) -> Iterator[Start]:
    """Run a machine, with further options; return its address."""
    with contextlib.ExitStack() as stack:

        def run(name: str, *options: str, ram: str = "64M") -> str:
            path = tmp_path / name
            argv = [*machine, "-m", ram, "-display", "none", "-nodefaults", *options]
            argv += ["-qmp", f"unix:{path},server=on,wait=off"]
            process = stack.enter_context(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            until(lambda: process.poll() is not None or listens(path))
            return f"unix:{path}"

        yield run


@pytest.fixture
def pair(start: Start) -> Pair:
    return start("source"), start("destination", "-incoming", "defer")


def answer(qmpctl: Run, server: str, command: str) -> Any:
    return json.loads(qmpctl("--qmp", server, "exec", "--json", command).stdout)


def status(qmpctl: Run, server: str) -> str:
    return str(answer(qmpctl, server, "query-status")["status"])


@pytest.mark.slow
def test_a_running_guest(qmpctl: Run, pair: Pair) -> None:
    ran = qmpctl("migrate", *pair, "--bandwidth", "0", "--pause", "500ms")
    assert (ran.returncode, ran.stderr) == (0, "")
    *_, end, times = ran.stdout.splitlines()
    assert end.startswith("completed in ")
    assert times.startswith("downtime ")
    assert ", pause none" not in times
    assert times.endswith("; the destination's guest is 'running'")
    assert [status(qmpctl, server) for server in pair] == ["postmigrate", "running"]


@pytest.mark.slow
@pytest.mark.usefixtures("kvm")
def test_a_promise(qmpctl: Run, pair: Pair) -> None:
    """A source of this project keeps it by itself; QEMU is steered, and needs a ring for that."""
    words = ["--bandwidth", "50", "--within", "6s", "--pause", "400ms"]
    ran = qmpctl("migrate", *pair, *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    forecast, *_, end, times = ran.stdout.splitlines()
    assert forecast.endswith("6 s can be kept, no vCPU is slowed")
    assert float(re.findall(r"completed in ([0-9.]+) s", end)[0]) < 6
    assert float(re.findall(r"pause ([0-9.]+) ms", times)[0]) < 400
    assert answer(qmpctl, pair[0], "query-vcpu-dirty-limit") == []
    parameters = answer(qmpctl, pair[0], "query-migrate-parameters")
    assert parameters["downtime-limit"] == 400
    assert parameters.get("__org.qmpserver_total-time", 0) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("kvm")
def test_a_promise_that_is_impossible(qmpctl: Run, pair: Pair) -> None:
    """It is told beforehand, and once under way; then Ctrl-C leaves the source as it was."""
    argv = [str(BIN / "qmpctl"), "migrate", *pair, "--bandwidth", "1", "--within", "200ms"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"cannot be kept any more: " not in (line := process.stdout.readline()):
            assert line
            if b"forecast" in line:
                assert b"0.2 s cannot be kept, " in line
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, b"")
    assert b"cannot be kept any more" not in shown
    assert answer(qmpctl, pair[0], "query-vcpu-dirty-limit") == []
    parameters = answer(qmpctl, pair[0], "query-migrate-parameters")
    assert parameters["downtime-limit"] == 300
    assert parameters.get("__org.qmpserver_total-time", 0) == 0


@pytest.mark.slow
def test_settings_and_json(qmpctl: Run, pair: Pair) -> None:
    words = ["--capability", "return-path", "--capability", "pause-before-switchover"]
    words += ["--capability", "multifd", "--parameter", "multifd-channels=3", "--json"]
    ran = qmpctl("migrate", *pair, *words, "--bandwidth", "0")
    assert (ran.returncode, ran.stderr) == (0, "")
    end = json.loads(ran.stdout)
    assert (end["status"], end["destination"]["status"]) == ("completed", "completed")
    assert end["source"]["ram"]["multifd-bytes"] > 0
    assert 0 < end["pause"] < 10_000
    for server in pair:
        ran = qmpctl("--qmp", server, "exec", "--json", "query-migrate-parameters")
        assert json.loads(ran.stdout)["multifd-channels"] == 3


@pytest.mark.slow
def test_a_paused_guest_to_one_that_listens(qmpctl: Run, start: Start, tmp_path: Path) -> None:
    source = start("source", "-S")
    destination = start("destination", "-incoming", f"unix:{tmp_path}/m")
    ran = qmpctl("migrate", source, destination)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "pause none; the destination's guest is 'prelaunch'" in ran.stdout


@pytest.mark.slow
def test_cancelled(qmpctl: Run, pair: Pair) -> None:
    argv = [str(BIN / "qmpctl"), "migrate", *pair, "--bandwidth", "1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"active: " not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, b"")
    assert shown.endswith(b"cancelled; the source's guest is 'running'\n")
    assert status(qmpctl, pair[0]) == "running"
    ran = qmpctl("--qmp", pair[1], "exec", "query-status")
    assert ran.returncode == 3, "it has ended"


@pytest.mark.slow
def test_another_machine(qmpctl: Run, start: Start) -> None:
    """The destination refuses its RAM; the guest runs on."""
    pair = start("source"), start("destination", "-incoming", "defer", ram="96M")
    ran = qmpctl("migrate", *pair, "--capability", "return-path")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith("qmpctl: the migration failed: ")
    assert "destination: " in ran.stderr
    assert ran.stderr.endswith("; the source's guest is 'running'\n")


@pytest.mark.slow
def test_no_such_socket(qmpctl: Run, pair: Pair, tmp_path: Path) -> None:
    ran = qmpctl("migrate", *pair, "--uri", f"unix:{tmp_path}/none/m")
    text = f"migrate-incoming is refused: Failed to bind socket to {tmp_path}/none/m"
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"qmpctl: {pair[1]}: {text}")
