"""`qmpctl bench migrate`, run briefly on real QEMUs, and the bare transfer beside it."""

import json
import os
from pathlib import Path

import pytest

from qmpserver.bench import transfer
from qmpserver.bench.migrate import BARE, DOWNTIME, EVENTS, PAUSE, PAUSED_TOTAL, SPEED, TOTAL
from qmpserver.tools.errors import QmpctlError
from tests.tools.conftest import Run

SMALL = ["--cycles", "1", "--ram", "64M", "--data", "16M"]


@pytest.fixture(params=["soft", "kvm", "qemu"])
def machine(request: pytest.FixtureRequest) -> str:
    """The command of a server."""
    kind: str = request.param
    if kind == "soft":
        return "qmpserver -accel soft,dirty-ring-size=4096"
    request.getfixturevalue("kvm")
    if kind == "qemu":
        program: str = request.getfixturevalue("qemu")
        return program
    return "qmpserver"


@pytest.mark.slow
def test_two_moves_a_cycle(qmpctl: Run, machine: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    ran = qmpctl("bench", "migrate", *SMALL, "--server", machine, "--json", str(raw))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("| 16 MB in use of 64 (median / min / max of 1)")
    assert f"| {BARE} : {machine} |" in ran.stdout
    assert f" of {BARE}\n" in ran.stdout
    series = json.loads(raw.read_text())["series"]
    stored = {(one["server"], one["what"]): one["samples"] for one in series}
    for what in (SPEED, PAUSED_TOTAL, TOTAL, DOWNTIME, EVENTS, PAUSE):
        assert len(stored[machine, what]) == 1
    assert len(stored[BARE, SPEED]) == 1
    for what in (SPEED, PAUSED_TOTAL, TOTAL, EVENTS, PAUSE):
        assert stored[machine, what][0] > 0


@pytest.mark.slow
def test_a_migration_that_fails(qmpctl: Run) -> None:
    server = "qmpserver -accel soft,dirty-ring-size=4096"
    ran = qmpctl("bench", "migrate", *SMALL, "--server", server, "--capability", "no-such")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "migrate-set-capabilities is refused: " in ran.stderr


def test_a_size_that_is_none(qmpctl: Run) -> None:
    ran = qmpctl("bench", "migrate", "--data", "much")
    assert ran.returncode == 2
    assert "'much' is not a size such as 512M or 4G" in ran.stderr


def test_bare_sendmsg() -> None:
    assert transfer.sendmsg_rate((1 << 20) + 5) > 0


def test_a_bare_reader_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(transfer, "_read", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(QmpctlError, match="the process that reads from a bare socket has failed"):
        transfer.sendmsg_rate(8 << 20)
    assert len(os.listdir("/proc/self/fd")) == before
