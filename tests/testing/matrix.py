"""The pytest plugin beside many releases of pytest and its plugins.

`python -m tests.testing.matrix [WORD...]` makes an environment for each combination (of which WORD
is a part), and runs a small test suite there: tests that do not use the plugin, and tests that do,
with whatever runs coroutine tests. The package index is asked for the releases.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300

NOT_USED = """
def test_it_is_loaded(pytestconfig):
    assert {"qmpserver", "qmpserver.pytest_plugin"} & {
        name for name, _ in pytestconfig.pluginmanager.list_name_plugin()
    }

def test_a_directory(tmp_path):
    tmp_path.joinpath("x").write_text("x")
"""
ABSENT = """
def test_it_is_not_loaded(pytestconfig):
    assert not pytestconfig.pluginmanager.hasplugin("qmpserver")
"""
BLOCKING = """
import pytest
from qmpserver import CommandError

@pytest.mark.qmp(smp=2)
def test_blocking(qmp_server, qmp):
    assert len(qmp.cmd("query-cpus-fast")) == 2
    qmp.cmd("stop")
    qmp.wait_event("STOP")
    qmp_server.assert_received("query-cpus-fast", "stop")
    with pytest.raises(CommandError):
        qmp.cmd("no-such")

class TestInAClass:
    def test(self, qmp):
        assert qmp.cmd("query-status")["running"]
"""
COROUTINES = """
import pytest
{imports}
{settings}
@{fixture}
async def stopped(qmp):
    await qmp.execute("stop")

@pytest.mark.{mark}
async def test_coroutine(qmp_server, qmp, stopped):
    await qmp.event("STOP")
    assert (await qmp.execute("query-status"))["status"] == "paused"
    assert await qmp_server.until_received("stop")

@pytest.mark.{mark}
class TestInAClass:
    async def test(self, qmp):
        assert (await qmp.execute("query-status"))["running"]
"""
ASYNCIO = COROUTINES.format(
    mark="asyncio", imports="import pytest_asyncio", fixture="pytest_asyncio.fixture", settings=""
)
LONGER = """
import pytest

pytestmark = pytest.mark.asyncio({scope}="module")

async def test_one(qmp):
    assert (await qmp.execute("query-status"))["running"]

async def test_two(qmp):
    await qmp.execute("stop")
    await qmp.event("STOP")
"""
ANYIO = COROUTINES.format(
    mark="anyio",
    imports="",
    fixture="pytest.fixture",
    settings='@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n',
)
TRIO = """
import pytest, trio

@pytest.mark.trio
async def test_blocking_within_trio(qmp_server, qmp):
    await trio.sleep(0)
    assert qmp.cmd("query-status")["running"]
    assert qmp_server.received("query-status")
"""
PLAIN = {"not_used": NOT_USED, "blocking": BLOCKING}
ON_ASYNCIO = {**PLAIN, "asyncio": ASYNCIO}


@dataclass(frozen=True)
class Combination:
    """An environment and its test suite.

    Attributes:
        name: Its name in the output.
        packages: The requirements of the environment, beside this project's own.
        modules: The test modules.
        arguments: More arguments of pytest.
        autoload: Whether pytest loads the plugins that are installed.
    """

    name: str
    packages: tuple[str, ...]
    modules: dict[str, str] = field(default_factory=lambda: PLAIN)
    arguments: tuple[str, ...] = ()
    autoload: bool = True


def _asyncio(release: str, pytest: str = "") -> Combination:
    name = f"pytest-asyncio {release}{f', pytest {pytest}' if pytest else ''}"
    packages = [f"pytest-asyncio=={release}", *([f"pytest=={pytest}"] if pytest else [])]
    modules = dict(ON_ASYNCIO)
    if release >= "0.23":
        scope = "scope" if release < "0.24" else "loop_scope"
        modules["longer"] = LONGER.format(scope=scope)
    return Combination(name, tuple(packages), modules)


OLDEST = Combination("pytest 7.0, pluggy 1.0", ("pytest==7.0.0", "pluggy==1.0.0"))
NEWEST = Combination(
    "newest, pytest-asyncio",
    ("pytest", "pytest-asyncio"),
    {**ON_ASYNCIO, "longer": LONGER.format(scope="loop_scope")},
)
COMBINATIONS = (
    OLDEST,
    Combination("pytest 7.1", ("pytest==7.1.*",)),
    Combination("pytest 7.4, pluggy 1.0", ("pytest==7.4.*", "pluggy==1.0.0")),
    Combination("pytest 7.4, pluggy 1.2", ("pytest==7.4.*", "pluggy==1.2.0")),
    Combination("pytest 8.0", ("pytest==8.0.*",)),
    Combination("pytest 8.2", ("pytest==8.2.*",)),
    Combination("pytest 8.4", ("pytest==8.4.*",)),
    Combination("pytest 9.0", ("pytest==9.0.*",)),
    Combination("newest", ("pytest",)),
    *(_asyncio(release, "7.0.0") for release in ("0.21.0", "0.21.2", "0.23.8")),
    _asyncio("0.21.0", "7.4.*"),
    _asyncio("0.21.2", "8.2.*"),
    _asyncio("0.23.0", "7.4.*"),
    _asyncio("0.23.5", "8.0.*"),
    *(_asyncio(release) for release in ("0.23.8", "0.24.0", "0.25.3", "0.26.0", "1.0.0", "1.2.0")),
    NEWEST,
    Combination(
        "newest, pytest-asyncio, auto",
        ("pytest", "pytest-asyncio"),
        {**ON_ASYNCIO, "auto": "async def test(qmp):\n    await qmp.execute('stop')\n"},
        ("--asyncio-mode=auto",),
    ),
    Combination("newest, anyio", ("pytest", "anyio"), {**PLAIN, "anyio": ANYIO}),
    Combination("anyio 3.0", ("pytest<8", "anyio==3.0.0"), {**PLAIN, "anyio": ANYIO}),
    Combination("newest, trio", ("pytest", "pytest-trio"), {**PLAIN, "trio": TRIO}),
    Combination(
        "newest, xdist", ("pytest", "pytest-asyncio", "pytest-xdist"), ON_ASYNCIO, ("-n2",)
    ),
    Combination(
        "pytest 7.0, xdist 2.5",
        ("pytest==7.0.0", "pytest-asyncio==0.21.0", "pytest-xdist==2.5.0"),
        ON_ASYNCIO,
        ("-n2",),
    ),
    Combination(
        "newest, no autoload",
        ("pytest", "pytest-asyncio"),
        ON_ASYNCIO,
        ("-p", "pytest_asyncio.plugin", "-p", "qmpserver.pytest_plugin"),
        autoload=False,
    ),
    Combination(
        "pytest-asyncio 0.21.2, no autoload",
        ("pytest==8.2.*", "pytest-asyncio==0.21.2"),
        ON_ASYNCIO,
        ("-p", "pytest_asyncio.plugin", "-p", "qmpserver.pytest_plugin"),
        autoload=False,
    ),
    Combination(
        "newest, no autoload, without this plugin",
        ("pytest", "pytest-asyncio"),
        {"absent": ABSENT},
        ("-p", "pytest_asyncio.plugin"),
        autoload=False,
    ),
)


def environment(directory: Path, packages: tuple[str, ...]) -> Path:
    """Make an environment with some packages and this project; return its interpreter.

    The project is installed as in editable mode, but nothing is compiled.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin" / "python"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "install", "-q", *project["dependencies"], *packages], check=True)
    purelib = Path(_output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (purelib / "qmpserver.pth").write_text(f"{ROOT}\n")
    info = purelib / "qmpserver-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qmpserver\nVersion: 0\n")
    (plugin,) = project["entry-points"]["pytest11"].items()
    (info / "entry_points.txt").write_text("[pytest11]\n{} = {}\n".format(*plugin))
    return python


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run(python: Path, combination: Combination, directory: Path) -> str:
    """Run the test suite; return how many tests passed, and with which releases.

    Raises:
        RuntimeError: A test failed, or was not run; the text is pytest's output.
    """
    for name, text in combination.modules.items():
        (directory / f"test_{name}.py").write_text(text)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    if not combination.autoload:
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    ran = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", *combination.arguments, directory],
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    tests = sum(text.count("def test") for text in combination.modules.values())
    passed = re.search(rf"\b{tests} passed\b", ran.stdout)
    if ran.returncode or not passed:
        raise RuntimeError(f"{ran.stdout}\n{tests} tests should have passed")
    (versions,) = re.findall(r"(pytest-[\d.]+.*)", ran.stdout)[:1]
    (plugins,) = re.findall(r"^plugins: (.*)", ran.stdout, re.MULTILINE)[:1] or [""]
    return f"{passed[0]} ({versions}; {plugins})"


def main(words: list[str]) -> int:
    """Run the combinations that have one of the words in their name, or all."""
    failed = []
    for combination in COMBINATIONS:
        if words and not any(word in combination.name for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="qmp-matrix-") as top:
            directory = Path(top, "suite")
            directory.mkdir()
            try:
                python = environment(Path(top, "env"), combination.packages)
                found = run(python, combination, directory)
            except (RuntimeError, subprocess.SubprocessError) as error:
                failed.append(combination.name)
                found = f"FAILED\n{error}"
            print(f"{combination.name}: {found}", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all of them work")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
