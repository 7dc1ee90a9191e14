"""The program as a process: in the background, under a service manager, logging, refusing."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from qmpserver.bench.firmware import firmware_image
from qmpserver.cli.descriptors import take_passed
from qmpserver.cli.pidfile import pidfile
from qmpserver.cli.settings import CommandLineError
from tests.cli.conftest import PATIENCE, Start, answer, event, execute, hang_up
from tests.conftest import Until, kill, listens

PROGRAM = [sys.executable, "-m", "qmpserver.cli"]
SOFT = ["-accel", "soft,dirty-ring-size=1024", "-m", "64M"]


@pytest.fixture
def daemons(until: Until, tmp_path: Path) -> Iterator[Path]:
    """A directory for the pidfiles of daemons; each daemon must have ended after the test."""
    yield tmp_path
    for path in tmp_path.glob("*.pid"):
        ended = not kill(path)
        assert ended, f"{path.name}: a daemon has not ended"


def run(*options: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


def read_proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@pytest.mark.slow
async def test_daemonize(accel: str, daemons: Path, until: Until) -> None:
    """The command returns when a client can connect; relative paths are removed at the end."""
    ran = await asyncio.to_thread(
        run,
        *("-accel", f"{accel},dirty-ring-size=1024", "-m", "64M", "-daemonize"),
        *("-pidfile", "d.pid", "-qmp", "unix:d.sock,server=on,wait=off", "-D", "d.log"),
        cwd=daemons,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    pid = int((daemons / "d.pid").read_text())
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    assert os.getsid(pid) != os.getsid(0)
    assert "\nUmask:\t0027\n" in read_proc(pid, "status")
    client = QMPClient("test")
    await client.connect(str(daemons / "d.sock"))
    assert (await execute(client, "query-status"))["running"]
    await execute(client, "quit")
    await hang_up(client)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert os.listdir(daemons) == ["d.log"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-accel kvm,dirty-ring-size=1000000", "must be a power of two"),
        ("-accel soft -guest dirty,size=1G", "MiB of RAM"),
        ("-accel soft -qmp unix:/nonexistent/q,server=on,wait=off", "No such file or directory"),
        ("-accel soft -smp 4000", "Invalid SMP CPUs 4000"),
    ],
)
def test_a_daemon_that_fails_says_why(daemons: Path, options: str, words: str) -> None:
    ran = run("-daemonize", "-pidfile", f"{daemons}/d.pid", *options.split())
    assert ran.returncode == 1
    assert words in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not list(daemons.iterdir())


@pytest.mark.slow
async def test_one_process_a_pidfile(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("the content of a program that has ended\n")
    async with start(*SOFT, "-pidfile", str(path)) as program:
        assert path.read_text() == f"{program.process.pid}\n"
        second = await asyncio.to_thread(run, *SOFT, "-pidfile", str(path))
        assert second.returncode == 1
        assert "cannot create PID file: Cannot lock pid file" in second.stderr
        assert path.exists()
    assert not path.exists()


def test_a_pidfile_that_another_program_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        path.unlink()
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def activated(listener: socket.socket) -> list[str]:
    """The command line of a service manager that passes this socket to the program."""
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", script, str(listener.fileno()), *PROGRAM]


async def test_a_socket_from_a_service_manager(tmp_path: Path, until: Until) -> None:
    """The manager listens, and the first client starts the program (LISTEN_FDS)."""
    tool = shutil.which("systemd-socket-activate")
    path = tmp_path / "s"
    options = [*SOFT, "-qmp", "fd:3,server=on,wait=off"]
    if tool is None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        process = await asyncio.create_subprocess_exec(
            *activated(listener), *options, pass_fds=[listener.fileno()]
        )
        listener.close()
    else:
        process = await asyncio.create_subprocess_exec(
            *(tool, "-E", "PATH", "-l", str(path), *PROGRAM, *options),
            cwd=Path(__file__).parents[2],
            stderr=asyncio.subprocess.DEVNULL,
        )
        await asyncio.to_thread(until, lambda: listens(path))
    client = QMPClient("test")
    async with asyncio.timeout(PATIENCE):
        await client.connect(str(path))
        assert (await execute(client, "query-status"))["running"]
        await execute(client, "quit")
        assert await process.wait() == 0
    await hang_up(client)


def test_a_passed_socket_that_no_option_uses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        ran = subprocess.run(
            [*activated(listener), *SOFT],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "qmpserver: descriptor 3 was passed by socket activation, but no option uses it",
        "Use -qmp fd:3,server=on,wait=off",
    ]


def test_passed_descriptors_are_taken_from_the_environment() -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "A": "b"}
    others = environ | {"LISTEN_PID": "1"}
    assert take_passed(others) == []
    assert len(others) == 4
    reader, writer = os.pipe()
    try:
        os.set_inheritable(reader, True)
        inherited = reader - 2  # counted from descriptor 3
        assert take_passed(environ | {"LISTEN_FDS": str(inherited)})[-1] == reader
        assert not os.get_inheritable(reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert take_passed(environ | {"LISTEN_FDS": "x"}) == []
    with pytest.raises(CommandLineError, match=r"invalid file descriptor fd = \d+: Bad"):
        take_passed(environ | {"LISTEN_FDS": "1000000"})
    environ["LISTEN_FDS"] = "0"
    assert take_passed(environ) == []
    assert environ == {"A": "b"}


@pytest.mark.slow
async def test_the_log(start: Start, tmp_path: Path, until: Until) -> None:
    path = tmp_path / "log"
    async with start(*SOFT, "-D", str(path), "-trace", "dirtylimit_set_vcpu") as program:
        client = await program.connect()
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=7, cpu_index=0)
        until(lambda: "rate limit 7\n" in path.read_text())
        await execute(client, "human-monitor-command", command_line="cancel_vcpu_dirty_limit")
        await hang_up(client)
    log = path.read_text()
    for line in (
        "accelerator soft, dirty rings of 1024 entries, from the command line",
        "monitor compat_monitor0: dirty limit of vCPU 0: 7 MB/s",
        "human monitor: dirty limit of all vCPUs: cancelled",
        "terminating on signal 15",
    ):
        assert line in log, log
    assert re.search(
        r"\d+@\d+\.\d{6}:dirtylimit_set_vcpu CPU\[0\] set dirty page rate limit 7", log
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["-trace", "*,file=/dev/full"],
        ["-trace", "*,file={}/full.json"],
        ["-D", "/dev/full", "-trace", "*"],
    ],
)
async def test_a_full_disk(
    start: Start, tmp_path: Path, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written costs one message and affects nothing else."""
    (tmp_path / "full.json").symlink_to("/dev/full")
    given = [option.format(tmp_path) for option in options]
    async with start(*SOFT, *given) as program:
        client = await program.connect()
        for rate in (7, 8, 9):
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=rate)
            await execute(client, "cancel-vcpu-dirty-limit")
        await execute(client, "quit")
        assert await program.wait() == 0
        await hang_up(client)
    said = capfd.readouterr().err
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 4


@pytest.mark.slow
async def test_a_timeline_for_chrome(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    async with start(*SOFT, "-trace", f"*,file={path}") as program:
        client = await program.connect()
        await execute(client, "set-vcpu-dirty-limit", dirty_rate=20)
        ring = "__org.qmpserver_query-dirty-ring"
        await answer(client, ring, lambda got: got["vcpus"][0]["throttle-time"] > 0)
        await hang_up(client)
    events = json.loads(path.read_text())
    assert {"run", "throttle"} <= {one["name"] for one in events if one["ph"] == "X"}
    names = {one["args"]["name"] for one in events if one["ph"] == "M"}
    assert "CPU 0/soft" in names


def test_unknown_trace_event() -> None:
    quits = '{"execute": "qmp_capabilities"}{"execute": "quit"}'
    ran = subprocess.run(
        [*PROGRAM, *SOFT, "-trace", "nope", "-qmp", "stdio"],
        input=quits,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "-trace nope: warning: trace event 'nope' does not exist" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patterns", "state"),
    [(["kvm_run_exit"], "enabled"), (["kvm_*", "-kvm_run_exit"], "disabled")],
)
async def test_trace_events_are_enabled_and_disabled(
    start: Start, patterns: list[str], state: str
) -> None:
    options = [word for pattern in patterns for word in ("-trace", f"{pattern},file=/dev/null")]
    async with start(*SOFT, *options) as program:
        client = await program.connect()
        shown = await execute(client, "trace-event-get-state", name="kvm_run_exit")
        assert shown == [{"name": "kvm_run_exit", "state": state}]
        await hang_up(client)


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ([], ""),
        (["-msg", "timestamp=on"], r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "),
        (["-msg", "timestamp=on,guest-name=on"], r"\S+Z vm "),
        (["-msg", "guest-name=on"], ""),
    ],
)
def test_prefix_of_messages(options: list[str], prefix: str) -> None:
    ran = run(*SOFT, "-name", "vm", *options, "-global", "a.b=c", "-pidfile", "/nonexistent/pid")
    warning = "-global a.b=c: warning: global a.b=c not used"
    error = "cannot create PID file: Could not create '/nonexistent/pid': No such file or directory"
    shown = ran.stderr.splitlines()
    assert len(shown) == 2
    for line, message in zip(shown, (warning, error), strict=True):
        assert re.fullmatch(f"{prefix}qmpserver: {re.escape(message)}", line)


@pytest.mark.slow
async def test_name_of_the_process(start: Start) -> None:
    async with start(*SOFT, "-name", "vm,process=a-name-of-more-than-15-bytes") as program:
        assert read_proc(program.process.pid, "comm") == "a-name-of-more-\n"


@pytest.mark.slow
async def test_actions_and_uuid(start: Start) -> None:
    uuid = "12345678-9ABC-def0-1234-56789abcdef0"
    async with start(*SOFT, "-uuid", uuid, "-no-shutdown", "-no-reboot") as program:
        client = await program.connect()
        assert (await execute(client, "query-uuid"))["UUID"] == uuid.lower()
        with client.listener(["SHUTDOWN", "STOP"]) as listener:
            await execute(client, "system_reset")
            assert (await event(listener, "SHUTDOWN"))["reason"] == "host-qmp-system-reset"
            await event(listener, "STOP")
        assert (await execute(client, "query-status"))["status"] == "shutdown"
        await hang_up(client)


@pytest.mark.slow
@pytest.mark.parametrize("accel", ["kvm"], indirect=True)
async def test_firmware(start: Start, accel: str, tmp_path: Path) -> None:
    """The firmware boots, is limited, and boots again after a reset."""
    image = tmp_path / "dirty.bin"
    image.write_bytes(firmware_image(64 << 20, 2))
    machine = ["-accel", "kvm,dirty-ring-size=1024", "-smp", "2", "-m", "64M"]
    async with start(*machine, "-bios", str(image)) as program:
        client = await program.connect()

        async def throttled() -> None:
            await execute(client, "set-vcpu-dirty-limit", dirty_rate=20)
            await answer(
                client,
                "__org.qmpserver_query-dirty-ring",
                lambda got: all(vcpu.get("current-rate", 0) >= 15 for vcpu in got["vcpus"]),
            )

        await throttled()
        for _ in range(3):
            await execute(client, "cancel-vcpu-dirty-limit")
            await execute(client, "system_reset")
            await throttled()
        await hang_up(client)


@pytest.mark.slow
def test_without_standard_descriptors(tmp_path: Path, until: Until) -> None:
    """A descriptor that is opened first must not become standard output."""
    path = tmp_path / "s"
    command = (
        f"{sys.executable} -m qmpserver.cli {' '.join(SOFT)} -qmp unix:{path},server=on,wait=off"
    )
    with subprocess.Popen(["sh", "-c", f"exec {command} <&- >&- 2>&-"]) as process:
        try:
            until(lambda: listens(path) or process.poll() is not None)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                lines = client.makefile("rwb")
                assert b"QMP" in lines.readline()
                lines.write(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
                lines.flush()
                answers = [json.loads(line) for line in lines]
                lines.close()
            assert any(one.get("event") == "SHUTDOWN" for one in answers)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_few_descriptors(tmp_path: Path) -> None:
    for most, cpus, needed in ((8, 1, 44), (43, 1, 44), (47, 2, 48)):
        ran = subprocess.run(
            ["sh", "-c", f'ulimit -n {most}; exec "$@"', "sh", *PROGRAM, *SOFT, "-smp", str(cpus)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert ran.returncode == 1, most
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert f"Too many open files: {needed} are needed, {most} are allowed" in ran.stderr


@pytest.mark.slow
def test_two_servers_on_one_path(tmp_path: Path, until: Until) -> None:
    options = [*SOFT, "-qmp", f"unix:{tmp_path}/s,server=on,wait=off"]
    with subprocess.Popen([*PROGRAM, *options]) as first:
        try:
            until(lambda: listens(tmp_path / "s"))
            second = run(*options)
            assert second.returncode == 1
            assert "Address already in use" in second.stderr
            assert listens(tmp_path / "s")
        finally:
            first.terminate()
        assert first.wait(PATIENCE) == 0


@pytest.mark.slow
def test_a_huge_machine(tmp_path: Path) -> None:
    """Memory is sparse: it takes space only where the guest touches it."""
    ran: Any = subprocess.run(
        [*PROGRAM, "-accel", "soft", "-m", "1T", "-guest", "dirty,pages=10", "-qmp", "stdio"],
        input='{"execute": "qmp_capabilities"}{"execute": "query-memory-size-summary"}'
        '{"execute": "quit"}',
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert f'"base-memory": {1 << 40}' in ran.stdout


@pytest.mark.slow
async def test_a_monitor_on_nothing(start: Start) -> None:
    """A monitor on /dev/null ends at once, and the program goes on."""
    async with start(*SOFT, "-chardev", "file,id=c,path=/dev/null", "-mon", "c") as program:
        client = await program.connect()
        assert (await execute(client, "query-status"))["running"]
        await hang_up(client)


@pytest.mark.parametrize("console", [False, True])
async def test_launched_as_qemus_own_class_does(tmp_path: Path, accel: str, console: bool) -> None:
    """The command line of `QEMUMachine`, which listens while the program connects."""
    options = ["-display", "none", "-vga", "none"]
    options += ["-chardev", f"socket,id=mon,path={tmp_path}/mon.sock"]
    options += ["-mon", "chardev=mon,mode=control"]
    if console:
        path = f"{tmp_path}/console.sock"
        options += ["-chardev", f"socket,id=console,path={path},server=on,wait=off"]
        options += ["-serial", "chardev:console"]
    client = QMPClient("test")
    await client.start_server(str(tmp_path / "mon.sock"))
    process = await asyncio.create_subprocess_exec(*PROGRAM, *options, "-accel", accel)
    try:
        async with asyncio.timeout(PATIENCE):
            await client.accept()
            assert (await execute(client, "query-status"))["running"]
            if console:
                assert listens(tmp_path / "console.sock")
            await execute(client, "quit")
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await hang_up(client)
