"""What ends qmpctl, and what it does not take for something else."""

import argparse
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from qmpserver.testing import ServerThread
from qmpserver.tools.address import ServerAddress, address
from qmpserver.tools.errors import QmpctlError, needs
from qmpserver.tools.menu import add_commands
from tests.conftest import Until
from tests.tools.conftest import BIN, PATIENCE, serving


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[str]:
    with serving("qmpserver", tmp_path_factory.mktemp("server"), until) as where:
        yield where


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("unix:/a:b", "/a:b"),
        ("tcp:host:1", ("host", 1)),
        ("tcp:[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(text: str, where: str | tuple[str, int]) -> None:
    assert address(text) == ServerAddress(where)


@pytest.mark.parametrize(
    "text", ["", "unix:", "/a", "tcp:host", "tcp::1", "tcp:host:0", "tcp:host:65536", "tcp:h:-1"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="neither unix:PATH nor tcp:HOST:PORT"):
        address(text)


@pytest.mark.slow
def test_interrupted(here: str) -> None:
    argv = [str(BIN / "qmpctl"), "--qmp", here, "top", "--csv", "--interval", "0.1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"time,")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, b"")


def test_the_reader_goes(here: str) -> None:
    argv = [str(BIN / "qmpctl"), "--qmp", here, "exec", "query-qmp-schema"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def imports(name: str) -> Callable[[], object]:
    return lambda: __import__(name)


def test_another_import_error_is_not_hidden() -> None:
    with pytest.raises(QmpctlError), needs("top", "no_such_package", "tools"):
        imports("no_such_package.part")()
    with pytest.raises(ModuleNotFoundError), needs("top", "textual", "tools"):
        imports("no_such_package")()
    parser = argparse.ArgumentParser()
    add_commands(parser, {"x": ("tools.no_such_module", "a command")}, "COMMAND")
    with pytest.raises(ModuleNotFoundError):
        parser.parse_args(["x"])


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed: str) -> None:
    with ServerThread() as server:
        path = shlex.quote(server.path)
        commands = f'"$0" --qmp unix:{path} exec nope {closed}; echo $?'
        ran = subprocess.run(
            ["sh", "-c", commands, BIN / "qmpctl"], capture_output=True, text=True, check=True
        )
        assert ran.stdout == "1\n"
        assert ran.stderr in ("", "CommandNotFound: The command nope has not been found\n")
