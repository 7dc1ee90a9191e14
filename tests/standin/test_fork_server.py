"""`-fork-server`: a program that is called as QEMU is forked from a warm process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmpserver.tools.processes import private_mb
from tests.conftest import Until, kill, listens
from tests.standin.test_program import PATIENCE, check, talk

PROGRAM = Path(sys.executable).with_name("qmpserver")
NAME = "qemu-system-x86_64"

LINUX = sys.platform == "linux"
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def server(tmp_path: Path, until: Until) -> Iterator[subprocess.Popen[bytes]]:
    """A fork server in a directory of its own."""
    if not LINUX:
        pytest.skip("a fork server needs Linux")
    link = tmp_path / NAME
    link.symlink_to(PROGRAM)
    with subprocess.Popen([PROGRAM, "-fork-server", NAME], cwd=tmp_path) as process:
        file = link.with_name(f"{NAME}.fork")
        until(lambda: file.exists() and listens(file.name))  # its address is relative
        yield process
        process.kill()
    for pidfile in tmp_path.glob("*.pid"):
        kill(pidfile, signal.SIGTERM)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Call the link, in the directory, by its relative path."""

    def run(*options: str, fds: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [f"./{NAME}", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            pass_fds=fds,
        )

    return run


def ask(path: Path) -> list[bytes]:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return talk(client)


@pytest.mark.usefixtures("server")
def test_a_call_is_a_cheap_stand_in(call: Call, tmp_path: Path, until: Until) -> None:
    options = ["-qmp", "unix:a.sock,server=on,wait=off", "-pidfile", "a.pid", "-daemonize"]
    assert call(*options).returncode == 0
    pid = int((tmp_path / "a.pid").read_text())
    assert private_mb(pid) < 15  # 20 without the server
    check(ask(tmp_path / "a.sock"))
    until(lambda: not (tmp_path / "a.pid").exists())


@pytest.mark.usefixtures("server")
def test_inherited_sockets(call: Call, tmp_path: Path) -> None:
    """As libvirt passes them: by number."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "b.sock"))
        listener.listen()
        fd = listener.fileno()
        chardev = f"socket,id=c,fd={fd},server=on,wait=off"
        monitor = ["-chardev", chardev, "-mon", "chardev=c,mode=control"]
        called = call(*monitor, "-pidfile", "b.pid", "-daemonize", fds=(fd,))
    assert (called.returncode, called.stderr) == (0, "")
    check(ask(tmp_path / "b.sock"))


@pytest.mark.usefixtures("server")
def test_errors_reach_the_caller(call: Call) -> None:
    called = call("-nonsense", "-daemonize")
    assert called.returncode == 1
    assert called.stderr.startswith(f"{NAME}: -nonsense: invalid option\n")
    called = call("-netdev", "nonsense,id=n", "-daemonize")
    assert called.returncode == 1
    assert "nonsense" in called.stderr


def test_without_a_server_the_link_works(
    server: subprocess.Popen[bytes], call: Call, tmp_path: Path
) -> None:
    server.kill()
    server.wait()
    assert (tmp_path / f"{NAME}.fork").exists()
    options = ["-qmp", "unix:c.sock,server=on,wait=off", "-pidfile", "c.pid", "-daemonize"]
    assert call(*options).returncode == 0
    check(ask(tmp_path / "c.sock"))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("expected", ["quit", "stop"])
def test_in_the_foreground_the_caller_has_the_status(
    tmp_path: Path, until: Until, expected: str
) -> None:
    path = tmp_path / "d.sock"
    (tmp_path / f"{NAME}.toml").write_text(f"expect = [{{ command = '{expected}' }}]")
    words = [str(tmp_path / NAME), "-qmp", f"unix:{path},server=on,wait=off"]
    with subprocess.Popen([*words, "-pidfile", f"{tmp_path}/d.pid"]) as process:
        until(lambda: listens(path))
        assert private_mb(process.pid) < 1
        assert NAME in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[0]
        assert int((tmp_path / "d.pid").read_text()) != process.pid
        check(ask(path))
        assert process.wait(PATIENCE) == (0 if expected == "quit" else 1)


@pytest.mark.parametrize(("whom", "status"), [("caller", -signal.SIGTERM), ("server", 1)])
def test_a_signal_ends_the_stand_in(
    server: subprocess.Popen[bytes], tmp_path: Path, until: Until, whom: str, status: int
) -> None:
    path = tmp_path / "f.sock"
    with subprocess.Popen(
        [tmp_path / NAME, "-qmp", f"unix:{path},server=on,wait=off"], stderr=subprocess.DEVNULL
    ) as caller:
        until(lambda: listens(path))
        (caller if whom == "caller" else server).terminate()
        assert caller.wait(PATIENCE) == status
    until(lambda: not path.exists())


@pytest.mark.usefixtures("server")
def test_a_caller_that_ends_takes_the_stand_in_along(tmp_path: Path, until: Until) -> None:
    """It waits for a client, so the caller still waits for it."""
    path = tmp_path / "e.sock"
    with subprocess.Popen(
        [tmp_path / NAME, "-qmp", f"unix:{path},server=on", "-daemonize"], stderr=subprocess.DEVNULL
    ) as process:
        until(lambda: listens(path))
        process.kill()
    until(lambda: not path.exists())


def test_a_signal_ends_the_server(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    server.terminate()
    assert server.wait(PATIENCE) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ["-fork-server", "qemu"],
            "-fork-server qemu: the link must have a name of QEMU, such as qemu-system-x86_64",
        ),
        (["-fork-server", NAME, "-S"], "-fork-server: the link's callers give the other options"),
        (
            ["-fork-server", f"nowhere/{NAME}"],
            f"-fork-server nowhere/{NAME}: "
            + (
                f"Failed to bind socket to nowhere/{NAME}.fork: No such file or directory"
                if LINUX
                else f"a fork server needs Linux, not {sys.platform}"
            ),
        ),
    ],
)
def test_refused(tmp_path: Path, options: list[str], why: str) -> None:
    ran = subprocess.run(
        [PROGRAM, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr.splitlines()[:1]) == (1, [f"qmpserver: {why}"])
