"""The client in Go, with this server and a real QEMU; test_readme.py runs its own tests."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, GO, PATIENCE, Serve, interrupt, needs_go

pytestmark = pytest.mark.slow

Limit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory, go: None) -> Limit:
    """Start the built program."""
    binary = tmp_path_factory.mktemp("go") / "limit"
    subprocess.run(
        ["go", "build", "-o", binary, EXAMPLES / "go" / "main.go"],
        env=GO,
        check=True,
        timeout=PATIENCE,
    )

    def start(*arguments: str | Path) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen([binary, *arguments], stdout=pipe, stderr=pipe, text=True)

    return start


def test_source_is_formatted() -> None:
    needs_go()
    ran = subprocess.run(
        ["gofmt", "-l", EXAMPLES / "go"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert ran.stdout == ""


def test_limit_is_set_and_cancelled(limit: Limit, server: Path) -> None:
    with limit("-rate", "30", "-for", "1500ms", server) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "vCPU 1: " in out
    assert "of 30 MB/s" in out
    with limit("-rate", "40", "-for", "1h", server) as process:
        assert process.stdout is not None
        assert "of 40 MB/s" in process.stdout.readline()
        status, _out, err = interrupt(process)
    assert (status, err) == (0, "")


def test_server_goes(limit: Limit, tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "q.sock"
    with serve(path) as server, limit("-for", "1h", path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        server.kill()
        _out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "why"), [("absent", "no such file"), ("file", "connection refused")]
)
def test_absent_server(limit: Limit, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    with limit(tmp_path / name) as process:
        _out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert why in err
    assert "goroutine" not in err
