"""The program's descriptors: each has one owner, which closes it once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE, Start, execute, hang_up
from tests.cli.test_process import SOFT, run

# Notes each close() of a descriptor that is not open: it may have been somebody else's before.
CLOSES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int close(int fd)
{
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
	int result = real(fd), error = errno;

	if (result < 0 && error == EBADF) {
		int log = open(getenv("CLOSES"), O_WRONLY | O_CREAT | O_APPEND, 0600);

		dprintf(log, "%d\\n", fd);
		real(log);
	}
	errno = error;
	return result;
}
"""


@pytest.fixture(scope="module")
def closes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, which writes to the file in the environment variable CLOSES."""
    path = tmp_path_factory.mktemp("closes")
    (path / "closes.c").write_text(CLOSES)
    command = ["cc", "-shared", "-fPIC", "closes.c", "-o", "closes.so", "-ldl"]
    subprocess.run(command, cwd=path, check=True, timeout=60)
    return path / "closes.so"


def test_the_library_notes_what_is_closed_twice(closes: Path, tmp_path: Path) -> None:
    log = tmp_path / "closes"
    program = "import os; fd = os.dup(0); os.close(fd)\ntry: os.close(fd)\nexcept OSError: pass"
    subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LD_PRELOAD": str(closes), "CLOSES": str(log)},
        check=True,
        timeout=PATIENCE,
    )
    assert log.read_text().count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["-chardev", "file,id=x,path=x"],
        ["-chardev", "pipe,id=x,path=p"],
        ["-chardev", "stdio,id=x"],
        ["-chardev", "null,id=x"],
        ["-chardev", "socket,id=x,path=y,server=on,wait=off"],
        ["-chardev", "file,id=x,path=x", "-mon", "x,mode=control"],
        ["-chardev", "pipe,id=x,path=p", "-mon", "x,mode=control"],
        ["-qmp-pretty", "unix:m,server=on,wait=off", "-pidfile", "pid", "-D", "log"],
        ["-trace", "*,file=t.json", "-http", ":0"],
        ["-http", "unix:h", "-monitor", "unix:m,server=on,wait=off"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["soft", "fake"])
async def test_no_descriptor_is_closed_twice(
    start: Start,
    closes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    kind: str,
) -> None:
    if kind == "fake" and {"-http", "-trace"} & set(options):
        pytest.skip("a stand-in has none")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("p")
    log = tmp_path / "closes"
    monkeypatch.setenv("LD_PRELOAD", str(closes))
    monkeypatch.setenv("CLOSES", str(log))
    machine = SOFT if kind == "soft" else ["-fake", "default"]
    async with start(*machine, *options) as program:
        client = await program.connect()
        client.send_fd_scm(0)
        await execute(client, "getfd", fdname="a")
        client.send_fd_scm(0)
        await execute(client, "add-fd")
        await execute(client, "quit")
        assert await program.wait() == 0
        await hang_up(client)
    assert not log.exists(), log.read_text()


def test_a_descriptor_for_two_devices(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "s"))
        fd = passed.fileno()
        value = f"fd:{fd},server=on,wait=off"
        ran = _run_with(fd, *SOFT, "-qmp", value, "-monitor", value)
    words = f"qmpserver: -monitor {value}: File descriptor '{fd}' is in use by another device\n"
    assert (ran.returncode, ran.stderr) == (1, words)


@pytest.mark.parametrize("machine", [SOFT, ["-fake", "default"]], ids=["soft", "fake"])
def test_a_set_of_descriptors(machine: list[str], tmp_path: Path) -> None:
    """The sets of -add-fd are there for clients, and for the files of chardevs."""
    fds = [os.open(tmp_path / "log", flags | os.O_CREAT) for flags in (os.O_RDONLY, os.O_WRONLY)]
    options = [one for fd in fds for one in ("-add-fd", f"fd={fd},set=3,opaque=log")]
    commands = ["qmp_capabilities", "query-fdsets", "query-chardev", "quit"]
    options += ["-chardev", "file,id=x,path=/dev/fdset/3", "-mon", "x,mode=control"]
    ran = subprocess.run(
        [sys.executable, "-m", "qmpserver.cli", *machine, *options, "-qmp", "stdio"],
        input="".join(json.dumps({"execute": command}) for command in commands),
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    for fd in fds:
        os.close(fd)
    assert (ran.returncode, ran.stderr) == (0, "")
    (members,) = json.loads(ran.stdout.splitlines()[2])["return"]
    assert members["fdset-id"] == 3
    assert [member["opaque"] for member in members["fds"]] == ["log", "log"]
    assert (tmp_path / "log").read_text().startswith('{"QMP":')


@pytest.mark.parametrize("machine", [SOFT, ["-fake", "default"]], ids=["soft", "fake"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("fd=99,set=1", "fd is not valid or already in use"),
        ("fd=1,set=1", "fd cannot be a standard I/O stream"),
        ("set=1", "fd option is required and must be non-negative"),
        ("fd={fd}", "set option is required and must be non-negative"),
        ("fd=-3,set=1", "fd option is required and must be non-negative"),
        ("fd={fd},set=-1", "set option is required and must be non-negative"),
        ("fd=x,set=1", "Parameter 'fd' expects a number"),
        ("fd={fd},set=1,a=b", "Invalid parameter 'a'"),
    ],
)
def test_a_set_that_cannot_be(machine: list[str], options: str, words: str) -> None:
    """The words are QEMU's."""
    with open(os.devnull) as passed:
        value = options.format(fd=passed.fileno())
        ran = _run_with(passed.fileno(), *machine, "-add-fd", value)
    assert (ran.returncode, ran.stderr) == (1, f"qmpserver: -add-fd {value}: {words}\n")


@pytest.mark.parametrize("machine", [SOFT, ["-fake", "default"]], ids=["soft", "fake"])
@pytest.mark.parametrize(
    ("number", "words"), [(1, "Permission denied"), (2, "No such file or directory")]
)
def test_a_member_that_is_not_there(machine: list[str], number: int, words: str) -> None:
    """The only one is for reading."""
    path = f"/dev/fdset/{number}"
    chardev = f"file,id=x,path={path}"
    with open(os.devnull) as passed:
        fd = passed.fileno()
        ran = _run_with(fd, *machine, "-add-fd", f"fd={fd},set=1", "-chardev", chardev)
    message = f"qmpserver: -chardev {chardev}: Could not open '{path}': {words}\n"
    assert (ran.returncode, ran.stderr) == (1, message)


def _run_with(fd: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the program, which inherits a descriptor."""
    return subprocess.run(
        [sys.executable, "-m", "qmpserver.cli", *options],
        pass_fds=[fd],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fd", [*range(3, 12), 10**6, 10**30])
def test_a_descriptor_of_the_programs_own(fd: int) -> None:
    """An option cannot name a socket that the program opens for itself, such as the loop's."""
    value = f"fd:{fd},server=on,wait=off"
    ran = run(*SOFT, "-qmp", value)
    words = f"qmpserver: -qmp {value}: File descriptor '{fd}' is not a socket\n"
    assert (ran.returncode, ran.stderr) == (1, words)
