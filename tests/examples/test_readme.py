"""Check that examples/README.md lists every example, and run every command in it."""

import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Until, listens
from tests.examples.conftest import ENVIRONMENT, EXAMPLES, PATIENCE, ROOT, run

README = (EXAMPLES / "README.md").read_text()
COMMANDS = re.findall(r"`([^`\n]+)` \|$", README, re.MULTILINE)
TESTED_BY_CI = ("sh examples/quickstart.sh", "sh examples/migrate.sh")


def test_everything_is_listed() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", README))
    tracked = subprocess.run(
        ["git", "ls-files", "."], cwd=EXAMPLES, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = {name if "/" not in name else f"{name.split('/')[0]}/" for name in tracked}
    pictures = {name for name in here if name.endswith((".svg", ".png"))}  # the README's
    assert here - pictures - {"README.md"} == listed


@pytest.mark.parametrize("command", TESTED_BY_CI)
def test_ci_runs_what_sets_up_a_clone(command: str) -> None:
    assert command in COMMANDS
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def words(request: pytest.FixtureRequest, tmp_path: Path, until: Until) -> Iterator[list[str]]:
    """Return a command's words; the README's server runs beside it, in a temporary directory."""
    (line,) = re.findall(r"^(qmpserver .*) &$", README, re.MULTILINE)
    command = request.param.replace("/tmp/", f"{tmp_path}/").replace("/tmp ", f"{tmp_path} ")
    with subprocess.Popen(
        shlex.split(line.replace("/tmp/", f"{tmp_path}/")), env=ENVIRONMENT
    ) as process:
        try:
            until(lambda: process.poll() is not None or listens(tmp_path / "q.sock"))
            yield shlex.split(command)
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [command for command in COMMANDS if command not in TESTED_BY_CI], indirect=True
)
def test_command(
    words: list[str], tmp_path: Path, until: Until, request: pytest.FixtureRequest
) -> None:
    program = Path(words[1]).name
    if program.endswith(".sh") and shutil.which("socat") is None:
        pytest.skip("socat is not installed")
    if words[0] == "env":
        request.getfixturevalue("go")
    if program == "daemon.py" or "--policy" in words:  # runs until SIGINT
        with subprocess.Popen(
            words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        ) as process:
            if program == "daemon.py":
                until(lambda: listens(Path(words[-1])))
            else:
                assert process.stdout is not None
                assert process.stdout.readline() == "q: found, running\n"
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
    else:
        run(*words)


@pytest.mark.slow
@pytest.mark.usefixtures("qemu", "kvm")
def test_a_promised_migration_of_qemu(tmp_path: Path, until: Until) -> None:
    """The lines of the README, one after the other."""
    (block,) = re.findall(r"^```sh\n(qmpctl guest .*?)```$", README, re.MULTILINE | re.DOTALL)
    lines = [line.replace("/tmp/", f"{tmp_path}/") for line in block.splitlines()]
    machines = []
    try:
        for line in lines[:-1]:
            words = shlex.split(line.removesuffix(" &"))
            if line.endswith(" &"):
                machines.append(subprocess.Popen(words, env=ENVIRONMENT))
            else:
                run(*words)
        until(lambda: all(listens(tmp_path / name) for name in ("a.sock", "b.sock")))
        ran = run(*shlex.split(lines[-1]))
    finally:
        for machine in machines:
            machine.terminate()
            machine.wait(PATIENCE)
    assert ran.stdout.startswith("forecast: ")
    assert "the destination's guest is 'running'" in ran.stdout
