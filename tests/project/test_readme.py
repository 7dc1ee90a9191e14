"""Every command that the README shows is run: here, or by .ci/run; and all that the pages show.

The examples' page has tests of its own.
"""

import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.cli.options import OPTIONS
from qmpserver.qapi import Schema
from qmpserver.qapi.markdown import markdown
from tests.conftest import Until, listens

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("qmpserver/**/*.md"), *ROOT.glob("examples/*/**/*.md")])
README = (ROOT / "README.md").read_text()
READ = "In your test suite"
BIN = Path(sys.executable).parent
PATIENCE = 100.0

# So that a test takes seconds; of an option given twice the last counts.
SHORT = {
    "cancel": ["--cycles", "1"],
    "limit": ["--seconds", "3"],
    "guest": ["--windows", "1", "--limited-windows", "1"],
}


def section(title: str) -> str:
    """A section of the README."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def commands() -> list[list[str]]:
    """The lines of all shell blocks, in words, but for those that a reader does one by one."""
    text = README.replace(section(READ), "")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
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
    server, shell = (
        next(words for words in here if words[0] == name) for name in ("qmpserver", "qmp-shell")
    )
    assert server[-1] == "&"
    typed = "".join(f"{line}\n" for line in re.findall(r"^\(QEMU\) (.*)$", README, re.MULTILINE))
    with subprocess.Popen([BIN / server[0], *server[1:-1]]) as process:
        try:
            while not listens(path):
                assert process.poll() is None
            for words in here:
                if words[:2] == ["qmpctl", "--qmp"]:
                    subprocess.run([BIN / words[0], *words[1:]], timeout=PATIENCE, check=True)
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


def test_dashboard(kvm: None, tmp_path: Path) -> None:
    words = next(words for words in commands() if "-http" in words)
    places = {"/tmp/q.sock": f"{tmp_path}/q.sock", ":8080": ":0"}
    for shown, here in places.items():
        words = [word.replace(shown, here) for word in words]
    with subprocess.Popen(
        [BIN / words[0], *words[1:]], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            assert re.search(r"http://127.0.0.1:\d+/\?token=\S+$", process.stderr.readline())
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


class Reader:
    """Does what a page says, from top to bottom, in a directory that looks like the checkout."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("examples", "schema"):
            (directory / name).symlink_to(ROOT / name)
        path = f"{BIN}:{os.environ['PATH']}"
        self._env = {**os.environ, "HOME": str(directory), "PATH": path}

    def reads(self, text: str) -> None:
        blocks = r"^```(sh|python|console)\n(.*?)^```"
        for language, block in re.findall(blocks, text, re.MULTILINE | re.DOTALL):
            self.does(language, block)

    def does(self, language: str, text: str) -> None:
        if language == "python":
            script = self._directory / "test_snippet.py"
            script.write_text(text)
            pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
            self._run([sys.executable, *(pytest_ if "def test_" in text else []), str(script)])
        elif language == "sh":
            self._run(["bash", "-ec", text])
        else:
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                got = self._run(["bash", "-c", command])
                checker = doctest.OutputChecker()
                options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
                assert checker.check_output(shown, got, options), f"$ {command}\n{got}"

    def _run(self, command: list[str]) -> str:
        # A file, since a daemon's output is not to be waited for.
        output = self._directory / "output"
        with output.open("wb") as file:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
                cwd=self._directory,
                env=self._env,
            )
        assert ran.returncode == 0, output.read_text()
        return output.read_text()

    @property
    def pidfiles(self) -> list[Path]:
        """Those of servers that have not ended."""
        return list(self._directory.glob("*.pid"))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    for pidfile in reader.pidfiles:
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, reader: Reader, until: Until) -> None:
    reader.reads(page.read_text())
    until(lambda: not reader.pidfiles)


def test_in_your_test_suite(reader: Reader, until: Until) -> None:
    reader.reads(section(READ))
    until(lambda: not reader.pidfiles)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "examples" / "README.md", *PAGES],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_option_has_its_line() -> None:
    page = (ROOT / "qmpserver" / "cli" / "README.md").read_text()
    told = dict(re.findall(r"^- `-([\w-]+)(?:\s+([^`]*))?`:", page, re.MULTILINE))
    assert told == {name: option.argument for name, option in OPTIONS.items()}


def test_commands_are_told_as_the_schema_has_them() -> None:
    """Made by: python -m qmpserver.qapi doc schema/qapi-schema.json -o schema/COMMANDS.md."""
    schema = Schema.load(ROOT / "schema" / "qapi-schema.json", None)
    assert (ROOT / "schema" / "COMMANDS.md").read_text() == markdown(schema, "QMP reference")
