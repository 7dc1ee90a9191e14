"""Every command and program that a page shows is run: here, or by .ci/run.

The examples' page has tests of its own.
"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.cli.options import OPTIONS
from qmpserver.qapi import Schema
from qmpserver.qapi.markdown import markdown
from tests.conftest import Until, kill

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MEASUREMENTS = ROOT / "qmpserver" / "MEASUREMENTS.md"
PAGES = sorted([*ROOT.glob("qmpserver/**/*.md"), *ROOT.glob("examples/*/**/*.md")])
LINKED = [README, CONTRIBUTING, ROOT / "examples" / "README.md", *PAGES]
CI = (ROOT / ".ci" / "run").read_text()
BIN = Path(sys.executable).parent
PATIENCE = 100.0

# Later options override earlier ones: a test takes seconds instead of minutes.
SHORT = {
    "cancel": ["--cycles", "1"],
    "limit": ["--seconds", "3"],
    "guest": ["--windows", "1", "--limited-windows", "1"],
}


def blocks(text: str, languages: str = "sh|python|console") -> list[tuple[str, str]]:
    """Return the language and the text of each block of code."""
    return re.findall(rf"^```({languages})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the words of each line of the shell blocks of a page."""
    lines = [line for _, block in blocks(page.read_text(), "sh") for line in block.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def links(page: Path) -> list[str]:
    """Return the files and directories that a page links to."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    return [target for target in targets if "://" not in target]


class Reader:
    """Runs the blocks of a page in a directory that looks like the checkout."""

    def __init__(self, directory: Path, programs: Path = BIN) -> None:
        self._directory = directory
        for name in ("examples", "schema"):
            (directory / name).symlink_to(ROOT / name)
        self._python = str(programs / "python")
        path = f"{programs}:{os.environ['PATH']}"
        self._env = {**os.environ, "HOME": str(directory), "PATH": path}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        for pidfile in self.pidfiles:
            kill(pidfile)

    def run(self, language: str, text: str) -> str:
        """Run a block, and return its output."""
        if language == "python":
            script = self._directory / "test_snippet.py"
            script.write_text(text)
            pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
            return self._run([self._python, *(pytest_ if "def test_" in text else []), str(script)])
        if language == "sh":
            return self._run(["bash", "-ec", text])
        said = ""
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            got = self._run(["bash", "-c", command])
            checker = doctest.OutputChecker()
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert checker.check_output(shown, got, options), f"$ {command}\n{got}"
            said += got
        return said

    def _run(self, command: list[str]) -> str:
        # A pipe would stay open as long as a daemon that has inherited it.
        output = self._directory / "output"
        with output.open("wb") as file:
            ran = subprocess.run(
                ["timeout", str(PATIENCE), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=self._directory,
                env=self._env,
            )
        assert ran.returncode == 0, output.read_text()  # 124: out of patience
        return output.read_text()

    @property
    def pidfiles(self) -> list[Path]:
        """The files of servers that have not ended."""
        return list(self._directory.glob("*.pid"))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path) as reader:
        yield reader


@pytest.mark.slow
def test_readme(reader: Reader, until: Until) -> None:
    """All but the excerpt from the example, and the commands that .ci/run runs."""
    daemon = [line.strip() for line in (ROOT / "examples" / "daemon.py").read_text().splitlines()]
    for language, block in blocks(README.read_text()):
        scripts = re.findall(r"^(?:\$ )?(sh [^ \n]+)", block, re.MULTILINE)
        if scripts:
            assert set(scripts) <= set(CI.splitlines())
        elif language == "python" and "def test_" not in block:
            assert [line for line in block.splitlines() if line.strip() not in daemon] == []
        else:
            reader.run(language, block)
    until(lambda: not reader.pidfiles)


def test_readme_suits_the_package_index() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 150
    assert text.count("![") == 1  # of a relative image the text alone is shown there
    assert "<img" not in text


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != MEASUREMENTS],
    ids=lambda page: str(page.relative_to(ROOT)),
)
@pytest.mark.slow
def test_page(page: Path, reader: Reader, until: Until) -> None:
    text = page.read_text()
    if re.search(r"^(?:\$ )?curl ", text, re.MULTILINE) and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    for language, block in blocks(text):
        reader.run(language, block)
    until(lambda: not reader.pidfiles)


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(MEASUREMENTS), ids=shlex.join)
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


def test_contributing() -> None:
    """Its scripts, modules and files exist; other tests run the modules."""
    for words in commands(CONTRIBUTING):
        if words[0] == "apt-get":
            assert shlex.join(words[2:]) in README.read_text()
        elif words[0] == "sh":
            assert (ROOT / words[1]).exists()
        else:
            assert words[:2] == [".venv/bin/python", "-m"]
            module = ROOT.joinpath(*words[2].split("."))
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
            assert all(
                (ROOT / word).exists() for word in words[3:] if word.endswith((".json", ".md"))
            )


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "qmpserver" / "README.md"
    listed = {(index.parent / target).resolve() for target in links(index)}
    pages = {page for page in PAGES if page.is_relative_to(index.parent) and page != index}
    assert {page for page in pages if "vendor" not in page.parts} <= listed


def test_workflow_runs_scripts_that_exist() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    scripts = re.findall(r"\bsh ([\w./-]+)|pytest ([\w./-]+)", text)
    assert scripts
    assert all((ROOT / (script or test)).exists() for script, test in scripts)


def test_every_option_has_its_line() -> None:
    page = (ROOT / "qmpserver" / "cli" / "README.md").read_text()
    told = dict(re.findall(r"^- `-([\w-]+)(?:\s+([^`]*))?`:", page, re.MULTILINE))
    assert told == {name: option.argument for name, option in OPTIONS.items()}


def test_commands_are_told_as_the_schema_has_them() -> None:
    """Made by: python -m qmpserver.qapi doc schema/qapi-schema.json -o schema/COMMANDS.md."""
    schema = Schema.load(ROOT / "schema" / "qapi-schema.json", None)
    assert (ROOT / "schema" / "COMMANDS.md").read_text() == markdown(schema, "QMP reference")
