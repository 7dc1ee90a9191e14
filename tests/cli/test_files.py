"""The files that the program writes for itself: their modes, and links in their places."""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.cli.files import open_text
from qmpserver.cli.pidfile import pidfile
from qmpserver.cli.settings import CommandLineError
from tests.cli.conftest import PATIENCE, Start
from tests.cli.test_process import PROGRAM, SOFT, run

QUIT = '{"execute": "qmp_capabilities"}{"execute": "quit"}'


@pytest.fixture
def umask() -> Iterator[None]:
    """Nothing but the program itself restricts the modes of new files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("trace", ["t", "t.json"])
async def test_modes(start: Start, tmp_path: Path, trace: str) -> None:
    paths = [tmp_path / name for name in ("pid", "log", trace)]
    options = ["-pidfile", str(paths[0]), "-D", str(paths[1]), "-trace", f"*,file={paths[2]}"]
    async with start(*SOFT, *options) as program:
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (*paths, program.path)]
    assert modes == [0o600] * 4


@pytest.mark.parametrize(
    "option", ["-pidfile {}", "-D {}", "-trace *,file={}", "-trace *,file={}.json"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file(tmp_path: Path, option: str, there: bool) -> None:
    """The file keeps its content, is not created, and the link stays."""
    precious = tmp_path / "precious"
    if there:
        precious.write_text("precious")
    link = tmp_path / ("link.json" if "json" in option else "link")
    link.symlink_to(precious)
    ran = run(*SOFT, *option.format(tmp_path / "link").split(), "-qmp", "stdio")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.endswith(": it is a symbolic link\n")
    assert link.is_symlink()
    assert precious.exists() is there
    assert not there or precious.read_text() == "precious"


@pytest.mark.parametrize("to", ["/dev/null", "."])
def test_a_pidfile_that_is_no_file(tmp_path: Path, to: str) -> None:
    """It is not removed, which would remove a device of the system."""
    link = tmp_path / "pid"
    link.symlink_to(to)
    with pytest.raises(CommandLineError, match="it is a symbolic link"), pidfile(str(link)):
        pass
    assert link.is_symlink()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(CommandLineError, match="it is not a regular file"), pidfile(str(fifo)):
            pass
    finally:
        os.close(reader)
    assert fifo.is_fifo()


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_the_log_on_standard_output(tmp_path: Path, name: str, to_file: bool) -> None:
    """These are links, and what is on standard output already stays."""
    path = tmp_path / "out"
    with path.open("a") as file:
        file.write("before\n")
        file.flush()
        ran = subprocess.run(
            [*PROGRAM, *SOFT, "-D", name, "-qmp", "stdio"],
            input=QUIT,
            stdout=file if to_file else subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    said = path.read_text() if to_file else ran.stdout
    assert not to_file or said.startswith("before\n")
    assert re.search("INFO qmpserver: ready", said)


def test_text_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open_text(str(path)) as first, open_text(str(path)) as second:
        first.write("1\n")
        first.flush()
        second.write("2\n")
    assert path.read_text() == "1\n2\n"
    with open_text(str(path), os.O_TRUNC):
        assert path.read_text() == ""
