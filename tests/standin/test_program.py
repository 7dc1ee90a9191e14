"""`qmpserver -fake` as other test suites start it: over every device, to its exit status."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qmpserver.transcript.format import read
from qmpserver.transcript.message import Message
from tests.conftest import Until, listens, require_engine
from tests.standin.conftest import COMMAND, Start

HELLO = b'{"execute": "qmp_capabilities"}\n'
QUIT = b'{"execute": "quit"}\n'
QEMU = """
    -name guest=vm,debug-threads=on -machine q35,accel=kvm:tcg,usb=off -accel kvm -enable-kvm
    -cpu Skylake-Client -m size=1G,slots=2,maxmem=4G -smp 2,sockets=2 -nodefaults -no-user-config
    -nographic -display gtk -object memory-backend-ram,id=m0,size=1G
    -drive file=disk.qcow2,if=none,id=d0 -device virtio-blk-pci,drive=d0 -netdev user,id=n0
    -kernel bzImage -append console=ttyS0 -serial stdio -bios OVMF.fd disk.img
"""
PATIENCE = 20.0


def talk(client: socket.socket) -> list[bytes]:
    """Say hello and quit; return all lines that come until the server hangs up."""
    with client, client.makefile("rb") as file:
        client.settimeout(PATIENCE)
        client.sendall(HELLO + QUIT)
        return list(file)


def check(lines: list[bytes]) -> None:
    assert b'"QMP"' in lines[0]
    assert lines[1] == b'{"return": {}}\r\n'
    assert b'"SHUTDOWN"' in lines[2]
    assert lines[3:] == [b'{"return": {}}\r\n']


def test_stdio(start: Start) -> None:
    process = start("default", "-qmp", "stdio")
    output, errors = process.communicate(HELLO + QUIT, timeout=PATIENCE)
    check(output.splitlines(keepends=True))
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.slow
def test_unix(start: Start, tmp_path: Path, until: Until) -> None:
    path = tmp_path / "q.sock"
    process = start("none", "-qmp", f"unix:{path},server=on,wait=off")
    until(lambda: listens(path))
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    check(talk(client))
    assert process.wait(PATIENCE) == 0
    assert not path.exists()


def test_tcp_to_a_listener(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start("default", "-qmp", f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(PATIENCE)
        check(talk(listener.accept()[0]))
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("how", ["connected", "listening"])
def test_an_inherited_socket(start: Start, tmp_path: Path, how: str) -> None:
    if how == "connected":
        mine, theirs = socket.socketpair()
        device = f"fd:{theirs.fileno()}"
    else:
        theirs = socket.socket(socket.AF_UNIX)
        theirs.bind(str(tmp_path / "q.sock"))
        theirs.listen()
        device = f"fd:{theirs.fileno()},server=on,wait=off"
    process = start("default", "-qmp", device, fds=(theirs.fileno(),))
    theirs.close()
    if how == "listening":
        mine = socket.socket(socket.AF_UNIX)
        mine.connect(str(tmp_path / "q.sock"))  # it listens already: no need to wait
    check(talk(mine))
    assert process.wait(PATIENCE) == 0


SCENARIO = """
ordered = true
strict = true
expect = [{ command = "stop" }, { command = "cont", times = 1 }]
"""
MET = b'{"execute": "stop"}\n{"execute": "cont"}\n'


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (MET, 0, []),
        (b"", 1, ["expected stop at least once; it was never sent",
                  "expected cont once; it was never sent",
                  "commands sent: qmp_capabilities, quit"]),
        (MET + b'{"execute": "cont"}\n', 1,
         ["expected cont once; it was sent 2 times",
          "commands sent: qmp_capabilities, stop, cont, cont, quit"]),
        (b'{"execute": "cont"}\n{"execute": "stop"}\n', 1,
         ["expected cont after stop; it was not sent after that",
          "commands sent: qmp_capabilities, cont, stop, quit"]),
        (MET + b'{"execute": "device_ad"}\n{"execute": "stop", "arguments": {"a": 1}}\n', 1,
         ["refused: device_ad: The command device_ad has not been found",
          "refused: stop: Parameter 'a' is unexpected"]),
    ],
)  # fmt: skip
def test_exit_status(
    start: Start, tmp_path: Path, sent: bytes, status: int, said: list[str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(SCENARIO)
    process = start(str(path), "-qmp", "stdio")
    _, errors = process.communicate(HELLO + sent + QUIT, timeout=PATIENCE)
    assert errors.decode().splitlines() == [f"qmpserver: {line}" for line in said]
    assert process.returncode == status


@pytest.mark.slow
@pytest.mark.parametrize("met", [True, False])
def test_a_signal_ends_it_with_the_same_status(
    start: Start, tmp_path: Path, until: Until, met: bool
) -> None:
    scenario, path = tmp_path / "a.toml", tmp_path / "q.sock"
    scenario.write_text(f"expect = [{{ command = 'stop', times = {int(not met)} }}]")
    process = start(str(scenario), "-qmp", f"unix:{path},server=on,wait=off")
    until(lambda: listens(path))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == int(not met)
    assert b"terminating on signal 15" in errors
    assert (b"expected stop once; it was never sent" in errors) is not met


def test_the_version_of_a_schema_from_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{'command': 'quit'}")
    process = start(f"default,schema={tmp_path}/s.json,version=9.1.2", "-qmp", "stdio")
    output, errors = process.communicate(HELLO + QUIT, timeout=PATIENCE)
    version = json.loads(output.splitlines()[0])["QMP"]["version"]["qemu"]
    assert (version, errors) == ({"major": 9, "minor": 1, "micro": 2}, b"")


@pytest.mark.slow
def test_the_log_is_a_transcript_and_a_scenario(start: Start, tmp_path: Path) -> None:
    log, sent = tmp_path / "log.qmp", HELLO + b'{"execute": "query-status"}\nno JSON\n' + QUIT
    process = start(f"default,log={log}", "-S", "-qmp", "stdio")
    output, _ = process.communicate(sent, timeout=PATIENCE)
    said = read(log.read_text()).messages
    assert [one.value for one in said if one.who == "server"] == [
        Message("server", line).value for line in output.decode().splitlines()
    ]
    assert [one.text for one in said if one.who == "client"] == sent.decode().splitlines()
    again = start(str(log), "-qmp", "stdio")
    repeated, errors = again.communicate(sent, timeout=PATIENCE)
    assert (again.returncode, errors) == (0, b"")
    assert _untimed(repeated) == _untimed(output)


def _untimed(output: bytes) -> list[object]:
    values = [Message("server", line).value for line in output.decode().splitlines()]
    return [{**value, "timestamp": None} for value in values]


def test_options_say_what_the_machine_is(start: Start) -> None:
    options = ["-S", "-smp", "3", "-m", "1G", "-name", "vm", "-qmp", "stdio"]
    process = start("default", *options)
    queries = ["query-status", "query-cpus-fast", "query-memory-size-summary", "query-name"]
    sent = b"".join(b'{"execute": "%b"}\n' % query.encode() for query in queries)
    output, _ = process.communicate(HELLO + sent + QUIT, timeout=PATIENCE)
    status, cpus, memory, name = (
        Message("server", line).value["return"] for line in output.decode().splitlines()[2:6]
    )
    assert status["status"] == "prelaunch"
    assert len(cpus) == 3
    assert memory == {"base-memory": 1 << 30, "plugged-memory": 0}
    assert name == {"name": "vm"}


def test_options_for_qemu_are_accepted(start: Start) -> None:
    """Options about the machine are accepted."""
    process = start("default", *shlex.split(QEMU), "-qmp", "stdio")
    output, _ = process.communicate(HELLO + QUIT, timeout=PATIENCE)
    assert b'"event": "SHUTDOWN"' in output
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-guest", "dirty"], "-guest cannot be used with -fake, which has no machine"),
        (["-no-such-option"], "-no-such-option: invalid option"),
    ],
)
def test_options_that_need_a_machine(start: Start, options: list[str], message: str) -> None:
    process = start("default", *options)
    _, errors = process.communicate(timeout=PATIENCE)
    assert errors.decode().startswith(f"qmpserver: {message}")
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("/nonexistent.toml", "/nonexistent.toml: No such file or directory"),
        (
            "default,fault=slow",
            "fault: name: unknown fault 'slow'; it must be one of silent-after-connect, ",
        ),
        ("default,fault=stale-id:stpo", "unknown command or event 'stpo'; did you mean 'stop'?"),
        ("default,lgo=x", "unknown option 'lgo'; did you mean 'log'?"),
        ("default,version=9.1", "option: version: '9.1' is not a version such as 7.2.0"),
        ("default,log=/nonexistent/x", "log: /nonexistent/x: No such file or directory"),
        (
            "default,schema=/nonexistent",
            "schema: /nonexistent: No such file or directory; it must be one of qemu-7.2, ",
        ),
    ],
)
def test_errors_in_the_option(start: Start, option: str, message: str) -> None:
    process = start(option, "-qmp", "stdio")
    _, errors = process.communicate(timeout=PATIENCE)
    assert errors.decode().startswith(f"qmpserver: -fake {option}: ")
    assert message in errors.decode()
    assert process.returncode == 1


def test_stopped_process_keeps_its_socket(start: Start, tmp_path: Path, until: Until) -> None:
    path = tmp_path / "q.sock"
    process = start("default,fault=stopped-process:stop", "-qmp", f"unix:{path},server=on,wait=off")
    until(lambda: listens(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(PATIENCE)
        file = client.makefile("rb")
        client.sendall(HELLO + b'{"execute": "stop"}\n')
        state = Path(f"/proc/{process.pid}/stat")
        until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        assert listens(path)
        process.send_signal(signal.SIGCONT)
        while b'"STOP"' not in file.readline():
            pass
        client.sendall(QUIT)
    assert process.wait(PATIENCE) == 0


def test_killed_process(start: Start) -> None:
    process = start("default,fault=killed-process:stop", "-qmp", "stdio")
    output, _ = process.communicate(HELLO + b'{"execute": "stop"}', timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert output.count(b'"return"') == 1  # that of the negotiation


NATIVE = """
import os, sys
from qmpserver.cli import main
sys.argv = ["", "-fake", "default", "-qmp", "stdio"]
leave = os._exit

def tell(status):
    native = [name for name in sys.modules if "native" in name or "cffi" in name]
    print(native, file=sys.stderr, flush=True)
    leave(status)

os._exit = tell
main.main()
"""


def test_nothing_native_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NATIVE], input=HELLO + QUIT, capture_output=True, timeout=PATIENCE
    )
    assert done.stderr == b"[]\n"
    check(done.stdout.splitlines(keepends=True))


async def test_a_daemon(tmp_path: Path) -> None:
    path, pidfile = tmp_path / "q.sock", tmp_path / "pid"
    options = ["-qmp", f"unix:{path},server=on,wait=off", "-pidfile", str(pidfile), "-daemonize"]
    process = await asyncio.create_subprocess_exec(*COMMAND, "default", *options)
    assert await process.wait() == 0
    pid = int(pidfile.read_text())
    try:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        check(talk(client))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("kind", [["-fake", "default"], ["-accel", "qtest"]])
def test_a_pseudo_terminal_is_told(kind: list[str]) -> None:
    """QEMU's line on standard output is what scripts look for."""
    if "-accel" in kind:
        require_engine()
    ran = subprocess.run(
        [sys.executable, "-m", "qmpserver.cli", *kind, "-chardev", "pty,id=c", "-qmp", "stdio"],
        input='{"execute": "qmp_capabilities"} {"execute": "query-chardev"} {"execute": "quit"}',
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, _, reply, *_ = ran.stdout.splitlines()
    path = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label c\)", first)
    assert path is not None
    assert f"pty:{path[1]}" in [one["filename"] for one in json.loads(reply)["return"]]
