"""qmpctl without its extras, and without the engine, is of full use but for what needs them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qmpserver.tools.address import address
from qmpserver.tools.client import Client
from qmpserver.tools.errors import ServerError
from qmpserver.tools.qmpctl import COMMANDS
from tests.conftest import Until, require_engine
from tests.tools.conftest import PATIENCE, serving

EXTRAS = ["argcomplete", "aiohttp", "matplotlib", "prometheus_client", "qemu", "rich", "textual"]
ENGINE = ["qmpserver.vm"]
QMPCTL = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Refused())
from qmpserver.tools.qmpctl import main
sys.exit(main(sys.argv[2:]))
"""


def command(refused: list[str], *words: str) -> list[str]:
    return [sys.executable, "-c", QMPCTL, ",".join(refused), *words]


def without(refused: list[str], *words: str) -> tuple[int, str, str]:
    """Run qmpctl where some packages cannot be imported: its status, stdout and stderr."""
    ran = subprocess.run(
        command(refused, *words),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[str]:
    with serving("qmpserver", tmp_path_factory.mktemp("server"), until) as where:
        yield where


@pytest.mark.parametrize("name", ["", *(name for name in COMMANDS if name != "guest")])
def test_help(name: str) -> None:
    status, shown, said = without(EXTRAS + ENGINE, *name.split(), "--help")
    assert (status, said) == (0, "")
    assert shown.startswith(f"usage: qmpctl {name}".rstrip())


@pytest.mark.slow
def test_exec_and_schema(here: str) -> None:
    def run(*words: str) -> str:
        status, shown, said = without(EXTRAS + ENGINE, "--qmp", here, *words)
        assert (status, said) == (0, "")
        return shown

    assert json.loads(run("exec", "query-name")) == {"name": "tested"}
    assert run("exec", "set-vcpu-dirty-limit", "dirty-rate=0x40", "cpu-index=1") == ""
    assert '"limit-rate": 64' in run("exec", "query-vcpu-dirty-limit", "--json")
    assert run("exec", "cancel-vcpu-dirty-limit") == ""
    assert "dirty-rate: int\n" in run("schema", "set-vcpu-dirty-limit")
    assert "  1 " in run("top", "--once", "--interval", "0.1")
    head, *rows = run("top", "--csv", "--once", "--interval", "0.1").splitlines()
    assert head.startswith("time,server,vcpu,")
    assert len(rows) == 2


@pytest.mark.slow
def test_record_and_replay(here: str, tmp_path: Path) -> None:
    between, file = f"unix:{tmp_path}/between", tmp_path / "transcript"
    words = ["--qmp", here, "record", "--listen", between, str(file)]
    with subprocess.Popen(command(EXTRAS + ENGINE, *words), stderr=subprocess.PIPE) as recording:
        while recording.poll() is None:
            with suppress(ServerError):  # it does not listen yet
                with Client(address(between)) as client:
                    client.execute("query-name")
                break
        assert recording.wait(PATIENCE) == 0
        assert recording.stderr is not None
        assert recording.stderr.read() == b""
    assert '-> {"execute": "query-name"}' in file.read_text()
    assert without(EXTRAS + ENGINE, "replay", str(file), "--qmp", here) == (0, "", "")


@pytest.mark.parametrize(
    ("refused", "words", "said"),
    [
        (EXTRAS, ["top", "--qmp", "unix:/x"], "top needs textual: pip install 'qmpserver[tools]'"),
        (
            EXTRAS,
            ["completion", "bash"],
            "completion needs argcomplete: pip install 'qmpserver[tools]'",
        ),
        (
            EXTRAS,
            ["bench", "cancel", "--plot", "x.svg"],
            "--plot needs matplotlib: pip install 'qmpserver[plot]'",
        ),
        (
            ENGINE,
            ["bench", "cancel"],
            "bench cancel: No module named 'qmpserver.vm'",
        ),
    ],
)
def test_one_line_names_what_is_missing(refused: list[str], words: list[str], said: str) -> None:
    if "--plot" in words:
        require_engine()
    assert without(refused, *words) == (1, "", f"qmpctl: {said}\n")


def test_the_engine_is_told_how_to_get() -> None:
    status, shown, said = without(["qmpserver.vm.accel.native._native"], "guest", "--output", "x")
    assert (status, shown) == (1, "")
    assert re.fullmatch("qmpctl: guest: the native engine (was not built|needs).*\n", said)
