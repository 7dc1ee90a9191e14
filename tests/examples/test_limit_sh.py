"""The shell client, with every installed shell."""

import json
import shutil
import socket
import threading
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, run

LIMIT = EXAMPLES / "limit.sh"

pytestmark = pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")


@pytest.fixture(params=["sh", "dash", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.slow
def test_set_query_cancel(shell: str, server: Path) -> None:
    def limits() -> dict[int, int]:
        told = json.loads(run(shell, LIMIT, server, "query").stdout)["return"]
        return {limit["cpu-index"]: limit["limit-rate"] for limit in told}

    assert limits() == {}
    for arguments, wanted in (
        (["set", "100"], {0: 100, 1: 100}),
        (["set", "20", "1"], {0: 100, 1: 20}),
        (["cancel", "0"], {1: 20}),
        (["cancel"], {}),
    ):
        assert json.loads(run(shell, LIMIT, server, *arguments).stdout) == {"return": {}}
        assert limits() == wanted
    refused = run(shell, LIMIT, server, "set", "5", "9", status=1)
    assert refused.stdout == ""
    assert json.loads(refused.stderr)["error"]["desc"] == "incorrect cpu index specified"


def test_it_can_lie_anywhere(server: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a, b:c" / "li mit.sh"
    copy.parent.mkdir()
    shutil.copy(LIMIT, copy)
    assert json.loads(run("sh", copy, server, "query").stdout) == {"return": []}


@pytest.mark.parametrize(
    "arguments", [[], ["q"], ["q", "set"], ["q", "query", "1"], ["q", "cancel", "1", "2"]]
)
def test_usage(shell: str, arguments: list[str]) -> None:
    assert run(shell, LIMIT, *arguments, status=2).stderr.count("usage: limit.sh SOCKET") == 3


def test_absent_server(shell: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in (("absent", "No such file or directory"), ("file", "Connection refused")):
        assert why in run(shell, LIMIT, tmp_path / name, "query", status=1).stderr


@pytest.mark.parametrize("says", [b"", b'{"QMP": {}}\n', b'{"QMP": {}}\n{"return": {}}\n'])
def test_a_server_that_hangs_up(says: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            client.sendall(says)
            client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        ran = run("sh", LIMIT, tmp_path / "s", "query", status=1)
        thread.join()
    assert ran.stdout == ""
    assert "no QMP answer" in ran.stderr or "Broken pipe" in ran.stderr


def test_posix(shell: str) -> None:
    run(shell, "-n", LIMIT)


def test_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    run("shellcheck", *EXAMPLES.glob("*.sh"))
