"""The files that the program writes for itself: their modes, and links in their places."""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmpserver.cli.pidfile import pidfile
from qmpserver.cli.settings import CommandLineError
from qmpserver.files import LARGEST
from tests.cli.conftest import PATIENCE, Start
from tests.cli.test_process import PROGRAM, SOFT, run

QUIT = '{"execute": "qmp_capabilities"}{"execute": "quit"}'


@pytest.fixture
def umask() -> Iterator[None]:
    """Nothing but the program itself restricts the modes of new files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.slow
@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("trace", ["t", "t.json"])
async def test_modes(start: Start, tmp_path: Path, trace: str) -> None:
    paths = [tmp_path / name for name in ("pid", "log", trace)]
    options = ["-pidfile", str(paths[0]), "-D", str(paths[1]), "-trace", f"*,file={paths[2]}"]
    async with start(*SOFT, *options) as program:
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (*paths, program.path)]
    assert modes == [0o600] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    ["-pidfile {}", "-D {}", "-trace *,file={}", "-trace *,file={}.json", "-fake default,log={}"],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file(tmp_path: Path, option: str, there: bool) -> None:
    """The file keeps its content, is not created, and the link stays."""
    precious = tmp_path / "precious"
    if there:
        precious.write_text("precious")
    link = tmp_path / ("link.json" if "json" in option else "link")
    link.symlink_to(precious)
    machine = [] if "-fake" in option else SOFT
    ran = run(*machine, *option.format(tmp_path / "link").split(), "-qmp", "stdio")
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
        with pytest.raises(CommandLineError, match="not a regular file"), pidfile(str(fifo)):
            pass
    finally:
        os.close(reader)
    assert fifo.is_fifo()


@pytest.mark.slow
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


READ = [
    "-fake {}",
    "-fake default,schema={}",
    "-bios {}",
    "-trace events={}",
    "-http :0,token-file={}",
    "-http :0,tls-cert={},tls-key={}",
]
WRITTEN = [
    "-pidfile {}",
    "-D {}",
    "-trace *,file={}",
    "-trace *,file={}.json",
    "-fake default,log={}",
]


@pytest.mark.slow
@pytest.mark.parametrize("option", READ + WRITTEN)
def test_a_pipe_without_its_other_side(tmp_path: Path, option: str) -> None:
    fifo = tmp_path / ("fifo.json" if "json" in option else "fifo")
    os.mkfifo(fifo)
    machine = [] if "-fake" in option else SOFT
    ran = run(*machine, *option.format(tmp_path / "fifo", tmp_path / "fifo").split())
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "this pipe" in ran.stderr or "not a regular file" in ran.stderr
    assert str(tmp_path / "fifo") in ran.stderr
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.slow
@pytest.mark.parametrize("option", READ)
def test_a_device_without_an_end(option: str) -> None:
    machine = [] if "-fake" in option else SOFT
    ran = run(*machine, *option.format("/dev/zero", "/dev/zero").split())
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "/dev/zero" in ran.stderr
    assert f"more than {LARGEST} bytes" in ran.stderr or "not a regular file" in ran.stderr


def test_a_pipe_with_a_writer() -> None:
    """As a shell's `<(command)` is."""
    source, sink = os.pipe()
    with subprocess.Popen(
        [*PROGRAM, "-fake", f"/dev/fd/{source}", "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[source],
        text=True,
    ) as process:
        os.close(source)
        os.write(sink, b"machine = {")
        os.write(sink, b" name = 'piped' }")
        os.close(sink)
        asked = QUIT.replace('{"execute": "quit"}', '{"execute": "query-name"}{"execute": "quit"}')
        said, _ = process.communicate(asked, timeout=PATIENCE)
    assert '{"return": {"name": "piped"}}' in said


@pytest.mark.slow
def test_a_log_whose_reader_stalls(tmp_path: Path) -> None:
    """The log ends; the program does not."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    stalled = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    schema = '{"execute": "query-qmp-schema"}'  # 200 KB, and the pipe holds 1 MB
    try:
        ran = subprocess.run(
            [*PROGRAM, "-fake", f"default,log={fifo}", "-qmp", "stdio"],
            input=QUIT.replace('{"execute": "quit"}', 10 * schema + '{"execute": "quit"}'),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(stalled)
    assert ran.stdout.count('"return"') == 1 + 10 + 1
    assert ran.returncode == 1
    assert ran.stderr == f"qmpserver: log: {fifo}: write could not complete without blocking\n"
