"""The rehearsal on live guests, and its model on the recorded trace of the example."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import (
    ENVIRONMENT,
    EXAMPLES,
    PATIENCE,
    QEMU,
    Serve,
    run,
)

CONVERGE = EXAMPLES / "converge" / "converge.py"
# 64 MB of RAM: rounds of 1.6, 0.8, 0.4 s, and 0.2 s of downtime.
SLOW = ["--bandwidth", "40", "--downtime", "300"]


def converge(*arguments: str | Path, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, CONVERGE, *arguments, status=status)


def rows(out: str) -> dict[str, list[str]]:
    """Return the table: names and their columns."""
    return {
        m[1]: m[2].split()
        for m in re.finditer(r"^(\S+(?: \S+)*?)  +((?:[\d.]+|never| )+)$", out, re.MULTILINE)
    }


def limits(path: Path) -> list[object]:
    ran = run("qmpctl", "--qmp", f"unix:{path}", "exec", "query-vcpu-dirty-limit")
    told: list[object] = json.loads(ran.stdout)
    return told


@pytest.mark.slow
def test_rehearsal(serve: Serve, tmp_path: Path) -> None:
    with serve(path := tmp_path / "q.sock"):
        out = converge("run", path, *SLOW).stdout
        assert limits(path) == []
    assert "limit of each: 10" in out
    predicted, measured = rows(out)["model"], rows(out)["measured"]
    assert predicted[0] == "4"
    assert 3 <= int(measured[0]) <= 7
    assert float(measured[2]) <= 300
    assert float(measured[1]) < 3 * float(predicted[1])


@pytest.mark.slow
@pytest.mark.usefixtures("qemu", "kvm")
def test_rehearsal_of_qemu(serve: Serve, tmp_path: Path) -> None:
    """QEMU's limits are so inaccurate that it may time out; the example then cancels the limit."""
    image = tmp_path / "dirty.bin"
    run("qmpctl", "guest", "--output", image, "--ram", "64M", "--smp", "2")
    with serve(path := tmp_path / "q.sock", "-bios", str(image), program=QEMU):
        ran = converge("run", path, *SLOW, "--patience", "30", status=None)
        assert limits(path) == []
    if ran.returncode:
        assert ran.stderr == "not converged within 30 s; the limit is cancelled\n"
    else:
        assert float(rows(ran.stdout)["measured"][2]) <= 300


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_releases_when_interrupted(serve: Serve, tmp_path: Path, number: int) -> None:
    with serve(path := tmp_path / "q.sock"):
        with running(path) as process:
            process.send_signal(number)
            _out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "")
        assert limits(path) == []


@pytest.mark.slow
def test_it_gives_up(serve: Serve, tmp_path: Path) -> None:
    with serve(path := tmp_path / "q.sock"):
        ran = converge("run", path, "--bandwidth", "1", "--patience", "2", status=1)
        assert ran.stderr == "not converged within 2 s; the limit is cancelled\n"
        assert limits(path) == []


@pytest.mark.slow
def test_server_goes(serve: Serve, tmp_path: Path) -> None:
    with serve(path := tmp_path / "q.sock") as server, running(path) as process:
        server.kill()
        _out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.startswith(f"{path}: ")
    assert err.count("\n") == 1


def running(path: Path) -> "subprocess.Popen[str]":
    """Start a long rehearsal; return once it has begun."""
    process = subprocess.Popen(
        [sys.executable, CONVERGE, "run", path, "--bandwidth", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    while "MB left" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    return process


@pytest.mark.slow
def test_record_and_compare(serve: Serve, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with serve(path := tmp_path / "q.sock"):
        converge("record", path, "--seconds", "0.5", "--output", trace)
    told = json.loads(trace.read_text())
    assert (told["interval"], told["ram"], len(told["rates"])) == (0.1, 64, 5)
    assert all(len(vcpus) == 2 and sum(vcpus) > 0 for vcpus in told["rates"])
    table = rows(converge("compare", trace, "--bandwidth", "10").stdout)
    assert table["no remedy"][2] == "never"
    assert float(table["dirty limit"][2]) <= 300


@pytest.mark.slow
def test_the_trace_that_is_here(tmp_path: Path) -> None:
    trace = CONVERGE.with_name("trace.json")
    told = json.loads(trace.read_text())
    assert len(told["rates"]) == 200
    table = rows(converge("compare", trace, "--plot", tmp_path / "p.svg").stdout)
    assert table["no remedy"][2] == "never"
    assert float(table["dirty limit"][3]) < float(table["auto-converge"][3])
    assert float(table["dirty limit"][2]) <= 300 < float(table["downtime ramp"][2])
    assert "<svg" in (tmp_path / "p.svg").read_text()


@pytest.mark.slow
def test_invalid_subjects(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"a": 1}')
    cases: list[tuple[list[str | Path], str]] = [
        (["run", tmp_path / "absent"], "No such file"),
        (["run", tmp_path / "file"], "Connection refused"),
        (["compare", tmp_path / "absent"], "No such file"),
        (["compare", tmp_path / "file"], "not a trace: "),
        (["compare", CONVERGE], "not a trace: "),
    ]
    for arguments, why in cases:
        assert why in converge(*arguments, status=1).stderr
    assert "invalid positive value" in converge("run", "x", "--ratio", "0", status=2).stderr
