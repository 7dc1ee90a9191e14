"""Errors inside the running program, and signals while it starts."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE
from tests.conftest import Until, readable

SOFT = ["-accel", "soft,dirty-ring-size=1024", "-m", "64M"]
HELLO = '{"execute": "qmp_capabilities"}'
QUIT = f'{HELLO}{{"execute": "quit"}}'
# Replaces a function, given as module:name, by one that does the given statement first.
PATCHED = """
import importlib, os, signal, sys

module, _, names = sys.argv.pop(1).partition(":")
statement = sys.argv.pop(1)
*owners, name = names.split(".")
owner = importlib.import_module(module)
for one in owners:
    owner = getattr(owner, one)
original = getattr(owner, name)

def patched(*arguments, **named):
    exec(statement)
    return original(*arguments, **named)

setattr(owner, name, patched)
from qmpserver.cli.__main__ import start
start()
"""
NO_FILE = 'raise FileNotFoundError(2, "No such file or directory", "a-file")'


def run(
    where: str, statement: str, *options: str, sent: str = QUIT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PATCHED, where, statement, *options],
        input=sent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("qmpserver.standin:StandIn.failures", ["-fake", "default"]),
        ("qmpserver.standin:StandIn.close", ["-fake", "default"]),
        ("qmpserver.vm.machine.machine:Machine.close", SOFT),
    ],
)
def test_error_of_the_running_program_is_shown_and_logged_with_its_traceback(
    where: str, options: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ran = run(where, NO_FILE, *options, "-D", str(log), "-qmp", "stdio")
    assert ran.returncode == 1
    for text in (ran.stderr, log.read_text()):
        assert "internal error\nTraceback (most recent call last):\n" in text
        assert "in patched" in text
        assert "FileNotFoundError: [Errno 2] No such file or directory: 'a-file'" in text
    ran = run(where, NO_FILE, *options, "-qmp", "stdio")
    assert ran.returncode == 1
    assert ran.stderr.count("Traceback") == 1


def test_error_in_a_callback_is_logged_and_ends_nothing(tmp_path: Path, until: Until) -> None:
    log = tmp_path / "log"
    where = "qmpserver.monitor.client:Executor.data_received"
    statement = f"if arguments[1] == b'a-file': {NO_FILE}"
    options = ["-fake", "default", "-D", str(log), "-qmp", "stdio"]
    with subprocess.Popen(
        [sys.executable, "-c", PATCHED, where, statement, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write("a-file")
            process.stdin.flush()
            until(lambda: log.exists() and "a-file" in log.read_text())
            said, _ = process.communicate(QUIT, timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert '"event": "SHUTDOWN"' in said
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'a-file'" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("qmpserver.cli.run:pidfile", SOFT),
        ("qmpserver.cli.assembly:Ram", SOFT),
        ("qmpserver.cli.assembly:Server", SOFT),
        ("qmpserver.monitor:Server._attach", SOFT),
        ("qmpserver.vm.machine.machine:Machine.start", SOFT),
        ("qmpserver.standin:Scenario.on_machine", ["-fake", "default"]),
        ("qmpserver.monitor:Server._attach", ["-fake", "default"]),
    ],
)
def test_signal_while_the_program_starts(where: str, options: list[str], tmp_path: Path) -> None:
    ran = run(
        where,
        "os.kill(os.getpid(), signal.SIGTERM)",
        *(*options, "-pidfile", f"{tmp_path}/pid"),
        *("-qmp", f"unix:{tmp_path}/s,server=on,wait=off"),
    )
    assert ran.returncode == 0
    assert ran.stderr == "qmpserver: terminating on signal 15\n"
    assert not list(tmp_path.iterdir())


IMPORTING = """
import signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "asyncio":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from qmpserver.cli.__main__ import start
start()
"""


def test_ctrl_c_while_modules_are_imported() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTING, *SOFT], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_anything_is_opened(number: signal.Signals) -> None:
    ran = run("qmpserver.cli.main:parse_command_line", f"signal.raise_signal({number})", *SOFT)
    assert (ran.returncode, ran.stderr) == (-number, "")


@pytest.mark.parametrize("options", [SOFT, ["-fake", "default"]], ids=["machine", "stand-in"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_a_monitor_waits_for_its_client(
    options: list[str], number: signal.Signals, tmp_path: Path, until: Until
) -> None:
    """The client of another monitor is told the reason."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "qmpserver.cli", *options, "-pidfile", f"{tmp_path}/pid"),
            *("-qmp", "stdio", "-qmp", f"unix:{tmp_path}/s,server=on"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(HELLO)
            process.stdin.flush()
            assert "QMP" in process.stdout.readline()
            assert process.stdout.readline() == '{"return": {}}\n'
            until((tmp_path / "s").exists)
            process.send_signal(number)
            said, shown = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert '"reason": "host-signal"' in said
    assert shown == f"qmpserver: terminating on signal {number}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [SOFT, ["-fake", "default"]], ids=["machine", "stand-in"])
def test_signal_while_it_connects(options: list[str], tmp_path: Path, until: Until) -> None:
    """The other side has a full backlog, so that the connection is not made."""
    path, pidfile = tmp_path / "s", tmp_path / "pid"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "qmpserver.cli", *options, "-pidfile", str(pidfile)),
                *("-qmp", "stdio", "-qmp", f"unix:{path}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                until(pidfile.exists)
                process.send_signal(signal.SIGTERM)
                _, shown = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    assert process.returncode == 0
    assert shown == f"qmpserver: terminating on signal {signal.SIGTERM}\n"
    assert not pidfile.exists()


@pytest.mark.parametrize("options", [SOFT, ["-fake", "default"]], ids=["machine", "stand-in"])
def test_daemon_that_a_signal_ends_before_it_is_ready(
    options: list[str], tmp_path: Path, until: Until
) -> None:
    pidfile, path = tmp_path / "pid", tmp_path / "s"
    command = [sys.executable, "-m", "qmpserver.cli", *options, "-daemonize"]
    with subprocess.Popen(
        [*command, "-pidfile", str(pidfile), "-qmp", f"unix:{path},server=on"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(path.exists)
            os.kill(int(pidfile.read_text()), signal.SIGTERM)
            _, shown = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 1
    assert shown == "qmpserver: terminating on signal 15\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_signal_while_the_address_of_http_is_resolved(tmp_path: Path) -> None:
    """The thread that waits for the name is left alone."""
    ran = run(
        "qmpserver.monitor.opening:listen",
        "os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        *(*SOFT, "-pidfile", f"{tmp_path}/pid", "-http", "127.0.0.1:0"),
    )
    assert (ran.returncode, ran.stderr) == (0, "qmpserver: terminating on signal 15\n")
    assert not list(tmp_path.iterdir())


def test_signal_while_a_pipe_has_no_reader(tmp_path: Path, until: Until) -> None:
    """As QEMU does, `-qmp file:` waits for one."""
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, "-m", "qmpserver.cli", *SOFT, "-pidfile", f"{tmp_path}/pid"]
    with subprocess.Popen(
        [*command, "-qmp", "stdio", "-qmp", f"file:{tmp_path}/fifo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until((tmp_path / "pid").exists)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, shown) == (0, "qmpserver: terminating on signal 2\n")
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("option", ["-fake {}", "-trace events={}", "-http :0,token-file={}"])
def test_signal_while_a_writer_takes_its_time(
    option: str, number: signal.Signals, until: Until
) -> None:
    source, sink = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "qmpserver.cli", *option.format(f"/dev/fd/{source}").split()],
        stderr=subprocess.PIPE,
        pass_fds=[source],
        text=True,
    ) as process:
        try:
            os.write(sink, b"#")
            until(lambda: not readable(source, 0))  # the program reads it
            process.send_signal(number)
            _, shown = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    os.close(source)
    os.close(sink)
    assert (process.returncode, shown) == (-number, "")


@pytest.mark.slow
def test_signal_while_standard_error_is_stuck(until: Until) -> None:
    """Not even the message can be written; the kernel ends the program then."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    statement = "import qmpserver.cli.run as run; run._END_S = 1"
    command = [sys.executable, "-c", PATCHED, "qmpserver.cli.run:_catch_signals", statement]
    with subprocess.Popen(
        [*command, *SOFT, "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "QMP" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == -signal.SIGALRM
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize("options", [SOFT, ["-fake", "default"]], ids=["machine", "stand-in"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_daemon_whose_launcher_ends_before_it_is_ready(
    options: list[str], number: signal.Signals, tmp_path: Path, until: Until
) -> None:
    """No terminal reaches the daemon."""
    pidfile, path = tmp_path / "pid", tmp_path / "s"
    command = [sys.executable, "-m", "qmpserver.cli", *options, "-daemonize"]
    with subprocess.Popen(
        [*command, "-pidfile", str(pidfile), "-qmp", f"unix:{path},server=on"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(path.exists)
        daemon = int(pidfile.read_text())
        try:
            process.send_signal(number)
            _, shown = process.communicate(timeout=PATIENCE)
            until(lambda: not list(tmp_path.iterdir()))
        except BaseException:
            os.kill(daemon, signal.SIGKILL)
            raise
    assert process.returncode == -number
    assert shown == "qmpserver: terminating on signal 15\n"


@pytest.mark.parametrize("option", ["-help", "-version"])
def test_output_to_a_full_disk(option: str) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "qmpserver.cli", option],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    message = "qmpserver: cannot write the output: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, message)
