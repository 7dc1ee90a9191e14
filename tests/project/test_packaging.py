"""The sdist and the wheel: contents, metadata, and that an installation works on its own."""

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from qmpserver import __version__
from tests.conftest import Until
from tests.project.test_readme import README, Reader, blocks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NATIVE = "qmpserver/vm/accel/native/"
# The subcommands of qmpctl that need nothing more.
BASE = """
serve() {
    qmpserver -accel soft,dirty-ring-size=4096 -m 64M -qmp unix:$1.sock,server=on,wait=off \\
        -pidfile $1.pid -daemonize $2 $3
}
serve vm
serve there -incoming defer
qmpctl --qmp unix:vm.sock exec set-vcpu-dirty-limit dirty-rate=100
qmpctl --qmp unix:vm.sock exec query-vcpu-dirty-limit --json | grep '"limit-rate": 100'
qmpctl --qmp unix:vm.sock schema set-vcpu-dirty-limit | grep dirty-rate
qmpctl --qmp unix:vm.sock top --once --interval 0.1
qmpctl --qmp unix:vm.sock exec cancel-vcpu-dirty-limit
qmpctl migrate unix:vm.sock unix:there.sock --within 8s --pause 300ms
printf '%s\\n' '-> {"execute": "query-name"}' '<- {"return": {}}' > said.qmp
qmpctl --qmp unix:vm.sock replay said.qmp
qmpctl --qmp unix:vm.sock record --listen unix:between.sock made.qmp &
until qmpctl --qmp unix:between.sock exec query-name; do sleep 0.1; done
wait $!
grep query-name made.qmp
qmpctl guest --output dirty.bin
qmpctl bench qmp --no-qemu --accel soft --windows 1 --seconds 0.01 --clients 1
qmpctl --qmp unix:vm.sock exec quit
qmpctl --qmp unix:there.sock exec quit
"""
# Those that need more, and the package and the extra that they name.
EXTRAS = {
    "completion bash": ("completion", "argcomplete", "tools"),
    "top --qmp unix:x": ("top", "textual", "tools"),
    "bench cancel --plot x.svg": ("--plot", "matplotlib", "plot"),
}
PLUGIN = """
import pytest

def test(qmp_server, qmp):
    qmp.cmd("stop")
    with pytest.raises(AssertionError, match="no cont among: .*, stop"):
        assert qmp_server.received("cont")
"""


PURE = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from qmpserver.testing import ServerThread

with ServerThread() as server:
    assert server.running
try:
    ServerThread(accel="soft").__enter__()
except ValueError as error:
    print(error)
"""
PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from qmpserver.{} import main; main()"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, timeout=300, env=os.environ | env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unpack(archive: Path, target: Path) -> None:
    """Unpack our own archive; Python 3.11.2, Debian 12's, knows no filters."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "tar_filter"):
            tar.extraction_filter = tarfile.tar_filter
        tar.extractall(target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both from the files that git tracks: files of an earlier build cannot get in."""
    top = tmp_path_factory.mktemp("build")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = run("git", "ls-files", "-z", "--cached", cwd=ROOT).split("\0")
    archive = top / "source.tar"
    with tarfile.open(archive, "w") as tar:
        for name in filter(None, files):
            tar.add(ROOT / name, name)
    source = top / "source"
    unpack(archive, source)
    # pip installs the sdist below with the build requirements of pyproject.toml alone.
    run(sys.executable, "-m", "build", "--no-isolation", "-o", top / "dist", cwd=source)
    return {path.suffix: path for path in (top / "dist").iterdir()}


def test_wheel_contents(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "qmpserver", "schema", cwd=ROOT).split()
    wanted = {
        name if name.startswith("qmpserver/") else f"qmpserver/{name}"
        for name in tracked
        if name != "qmpserver/schema"
        and (not name.endswith((".c", ".h", ".md")) or "/static/" in name)
    }
    extension = {f"{NATIVE}_native.abi3.so"}  # one for all versions of Python
    assert "-cp311-abi3-linux_" in built[".whl"].name
    assert extension <= names
    assert names - extension == wanted


def test_sdist_contents(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    tracked = run(
        "git", "ls-files", NATIVE, "qmpserver/web/static", "*.md", "examples", cwd=ROOT
    ).split()
    assert set(tracked) <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", "_native.c"))]


def test_nothing_else_is_at_the_top() -> None:
    """A file that is committed by mistake is found here."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {name.partition("/")[0] for name in listed.stdout.split()} == {
        *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SPECIFICATION.md"),
        *("MANIFEST.in", "pyproject.toml", "setup.py"),
        *("examples", "qmpserver", "schema", "tests"),
    }


def test_metadata(built: dict[str, Path]) -> None:
    """The README renders on a package index; it has no image that would need a path there."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built.values(), cwd=ROOT)
    with zipfile.ZipFile(built[".whl"]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


@pytest.mark.install
def test_installed_alone_it_works(built: dict[str, Path], tmp_path: Path, until: Until) -> None:
    """From the sdist, so that pip builds the wheel too; then the page's examples, then pytest."""
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    programs = tmp_path / "env" / "bin"
    python = programs / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, built[".gz"], cwd=tmp_path)
    where = "import qmpserver; print(qmpserver.__version__, qmpserver.__file__)"
    version, file = run(python, "-c", where, cwd=tmp_path).split()
    assert version == __version__
    assert Path(file).is_relative_to(tmp_path)
    directory = tmp_path / "d"
    directory.mkdir()
    with Reader(directory, programs) as reader:
        reader.run("sh", BASE)
        for command, (user, package, extra) in EXTRAS.items():
            said = f"qmpctl: {user} needs {package}: pip install 'qmpserver[{extra}]'\n"
            assert reader.run("sh", f"! qmpctl {command}") == said
        shown = blocks(README.read_text())
        for language, block in shown:
            if language == "sh" and "sh examples/" not in block:
                reader.run(language, block)
        until(lambda: not reader.pidfiles)
        run(*pip, f"{built['.gz']}[pytest]", cwd=tmp_path)
        (fixtures,) = (block for _, block in shown if "def test_" in block)
        reader.run("python", fixtures)
    (tmp_path / "test_it.py").write_text(PLUGIN)
    run(python, "-m", "pytest", "-W", "error", "test_it.py", cwd=tmp_path)


@pytest.mark.install
def test_without_a_compiler_there_is_no_engine(built: dict[str, Path], tmp_path: Path) -> None:
    """Python's own modules are all that the rest needs."""
    unpack(built[".gz"], tmp_path)
    (source,) = tmp_path.iterdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run(*build, cwd=source, CC="no-such-compiler")
    (wheel,) = (source / "dist").iterdir()
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(installed)

    base = (
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    bare: list[str | Path] = [base, "-ISW", "error", "-c"]

    def ended(module: str, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*bare, PROGRAM.format(module), installed, *arguments],
            input='{"execute": "qmp_capabilities"}{"execute": "quit"}',
            text=True,
            capture_output=True,
            timeout=60,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout, done.stderr

    status, shown, said = ended("cli.main", "-fake", "default", "-qmp", "stdio")
    assert (status, said, '"event": "SHUTDOWN"' in shown) == (0, "", True)
    why = run(*bare, PURE, installed, cwd=tmp_path)
    assert why.startswith("the native engine was not built")
    why = why.rstrip()
    assert ended("cli.main", "-accel", "soft", "-qmp", "stdio") == (
        1,
        "",
        f"qmpserver: {why}; -fake does not need it\n",
    )
    # The program exits with the status that main() returns.
    assert ended("tools.qmpctl", "bench", "cancel")[2] == f"qmpctl: bench cancel: {why}\n"
