"""Every command that the README shows is run: here, or by .ci/run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import listens

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
PATIENCE = 100.0

# So that a test takes seconds; of an option given twice the last counts.
SHORT = {
    "cancel": ["--cycles", "1"],
    "limit": ["--seconds", "0.5"],
    "guest": ["--windows", "1", "--limited-windows", "1"],
}


def commands() -> list[list[str]]:
    """The lines of all shell blocks, in words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def test_nothing_is_left_out() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for words in commands():
        if words[0] == "sh":
            assert shlex.join(words) in ci
        else:
            assert words[0] in (".", "qmpserver", "qmp-shell", "qmpctl")


@pytest.mark.parametrize("words", [w for w in commands() if "bench" in w[:2]], ids=shlex.join)
def test_measurements(words: list[str], kvm: None, request: pytest.FixtureRequest) -> None:
    if words[2] == "guest":
        request.getfixturevalue("qemu")
    ran = subprocess.run(
        [BIN / words[0], *words[1:], *SHORT[words[2]]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert ran.stdout.count("|") > 10


def test_by_hand(kvm: None, tmp_path: Path) -> None:
    """The server in the background, qmp-shell on it, and the lines typed there."""
    path = str(tmp_path / "q.sock")
    here = [[w.replace("/tmp/q.sock", path) for w in words] for words in commands()]
    by_name = {words[0]: words for words in here}
    server = by_name["qmpserver"]
    assert server[-1] == "&"
    typed = "".join(f"{line}\n" for line in re.findall(r"^\(QEMU\) (.*)$", README, re.MULTILINE))
    with subprocess.Popen([BIN / server[0], *server[1:-1]]) as process:
        try:
            while not listens(path):
                assert process.poll() is None
            for words in here:
                if words[:2] == ["qmpctl", "--qmp"]:
                    subprocess.run([BIN / words[0], *words[1:]], timeout=PATIENCE, check=True)
            shell = by_name["qmp-shell"]
            ran = subprocess.run(
                [BIN / shell[0], *shell[1:]],
                input=typed,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,  # it may mind that the server has gone when it hangs up
                env={**os.environ, "HOME": str(tmp_path)},
            )
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert '"limit-rate": 100' in ran.stdout
    assert '"ring-size": 4096' in ran.stdout
