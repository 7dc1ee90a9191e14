"""`qmpctl record` and `qmpctl replay`, between real clients and servers."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ConnectError, QMPClient

from qmpserver.files import LARGEST
from qmpserver.transcript.format import read
from tests.conftest import Until, listens
from tests.tools.conftest import BIN, Run

CAPTURED = Path(__file__).parents[1] / "transcript" / "captured"
LOG = """\
12:00:01 client {"execute": "qmp_capabilities"}
12:00:01 server {"return": {}}
12:00:02 client {"execute": "query-name"}
12:00:02 server {"return": {"name": "%s"}}
"""


def replayed(qmpctl: Run, server: str, path: Path, text: str) -> tuple[int, str]:
    path.write_text(text)
    ran = qmpctl("replay", str(path), "--qmp", server, "--timeout", "1")
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


@pytest.mark.slow
def test_replay_of_what_others_captured(qmpctl: Run, server: str, tmp_path: Path) -> None:
    file = tmp_path / "captured"
    replies = (CAPTURED / "names.replies").read_text()
    assert replayed(qmpctl, server, file, replies) == (0, "")
    status, text = replayed(qmpctl, server, file, replies.replace('"tested"', '"else"'))
    assert status == 1
    assert text == f'{file}: line 32: query-name: return.name: "tested" instead of "else"\n'
    socat = (CAPTURED / "socat.txt").read_text()
    assert replayed(qmpctl, server, file, socat) == (0, "")
    assert replayed(qmpctl, server, file, re.sub(r"\.000(\d{6})", r".\1", socat)) == (0, "")
    status, text = replayed(qmpctl, server, file, socat.replace('"tested"', '"else"'))
    assert status == 1
    assert text == f'{file}: line 8: query-name: return.name: "tested" instead of "else"\n'
    assert replayed(qmpctl, server, file, LOG % "tested") == (0, "")
    status, text = replayed(qmpctl, server, file, LOG % "else")
    assert status == 1
    assert text == f'{file}: line 4: query-name: return.name: "tested" instead of "else"\n'


@pytest.mark.slow
def test_replay_reports(qmpctl: Run, server: str, tmp_path: Path) -> None:
    text = """
-> {"execute": "cont"}
<- {"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}
<- {"return": {}}
-> {"execute": "stop"}
<- {"return": {}}
<- {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}
-> {"execute": "query-version"}
<- {"return": {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "x"}}
-> {"execute": "query-cpus-fast"}
<- {"return": [{"thread-id": 1, "...": "..."}, "..."]}
-> {]
<- {"error": {"class": "GenericError", "desc": "<string>"}}
"""
    file = tmp_path / "t"
    assert replayed(qmpctl, server, file, text) == (0, "")
    status, said = replayed(qmpctl, server, file, text.replace('"RESUME"', '"RESET"'))
    assert status == 1
    assert said.splitlines() == [
        f"{file}: line 3: cont: no event RESET",
        f"{file}: at the end: (no command): unexpected event RESUME",
    ]
    assert replayed(
        qmpctl, server, file, "#! events ignore\n" + text.replace("RESUME", "RESET")
    ) == (0, "")
    more = '-> {"execute": "query-name"}\n<- {"return": {"name": "tested"}}\n<- {"return": {}}\n'
    status, said = replayed(qmpctl, server, file, more)
    assert (status, said) == (1, f"{file}: line 3: query-name: no answer: nothing in 1 s\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"nothing", "no message"), (b"\xff\xfe", "not UTF-8"), (None, "No such")],
)
def test_a_bad_file(qmpctl: Run, tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "t"
    if content is not None:
        file.write_bytes(content)
    ran = qmpctl("replay", str(file), "--qmp", f"unix:{tmp_path}/none")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert why in ran.stderr


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/dev/zero", f"more than {LARGEST} bytes"),
        ("-", f"more than {LARGEST} bytes"),
        ("fifo", "nobody writes to this pipe"),
    ],
)
def test_a_transcript_that_never_ends(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open("/dev/zero", "rb") as endless:
        ran = subprocess.run(
            [f"{BIN}/qmpctl", "replay", name, "--qmp", "unix:none"],
            stdin=endless,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
            cwd=tmp_path,
        )
    assert (ran.returncode, ran.stderr) == (2, f"qmpctl: {name}: {why}\n")


def test_help_tells_the_format(qmpctl: Run) -> None:
    assert "<100 +-20%>" in qmpctl("replay", "--help").stdout


@contextlib.contextmanager
def between(argv: list[str], path: Path, until: Until, **options: Any) -> Iterator[None]:
    """Run what stands between client and server, for one client."""
    with subprocess.Popen(argv, **options) as process:
        try:
            until(lambda: listens(path))
            yield
            process.wait(10)
        finally:
            process.kill()


def converse(path: Path) -> None:
    async def run() -> None:
        client = QMPClient()
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.connect(str(path))
                    break
                except ConnectError as error:  # the socket is there a moment before it listens
                    if not isinstance(error.exc, ConnectionRefusedError):
                        raise
            await client.execute("query-name")
            with contextlib.suppress(Exception):
                await client.execute("no-such", {"a\\b": "q\"'{"})
            await client.execute("cont")
            await client.execute("stop")
            await client.disconnect()

    asyncio.run(run())


@pytest.mark.slow
def test_recorded_and_replayed(qmpctl: Run, server: str, tmp_path: Path, until: Until) -> None:
    here, file = tmp_path / "a.sock", tmp_path / "t"
    argv = [str(BIN / "qmpctl"), "--qmp", server, "record", "--listen", f"unix:{here}", str(file)]
    with between(argv, here, until):
        converse(here)
    assert not here.exists()
    text = file.read_text()
    assert text.startswith('<- {"QMP": ')
    assert [m.command for m in read(text).messages if m.who == "client"] == [
        "qmp_capabilities",
        "query-name",
        "no-such",
        "cont",
        "stop",
    ]
    ran = qmpctl("replay", str(file), "--qmp", server)
    assert (ran.returncode, ran.stdout) == (0, "")
    ran = qmpctl("replay", "--qmp", server, str(file), "--timeout", "x")
    assert ran.returncode == 2


@pytest.mark.slow
def test_recording_to_a_full_disk(server: str, tmp_path: Path, until: Until) -> None:
    here = tmp_path / "a.sock"
    argv = [str(BIN / "qmpctl"), "--qmp", server, "record", "--listen", f"unix:{here}", "/dev/full"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: listens(here))
        with contextlib.suppress(Exception):  # it may be disconnected before it has negotiated
            converse(here)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (1, "qmpctl: /dev/full: No space left on device\n")


def test_what_socat_saw(qmpctl: Run, server: str, tmp_path: Path, until: Until) -> None:
    here, file = tmp_path / "a.sock", tmp_path / "log"
    path = server.removeprefix("unix:")
    argv = ["socat", "-v", f"UNIX-LISTEN:{here}", f"UNIX-CONNECT:{path}"]
    try:
        with file.open("w") as log, between(argv, here, until, stderr=log):
            converse(here)
    except FileNotFoundError:
        pytest.skip("socat is not installed")
    commands = [m.command for m in read(file.read_text()).messages if m.who == "client"]
    assert commands == ["qmp_capabilities", "query-name", "no-such", "cont", "stop"]
    ran = qmpctl("replay", str(file), "--qmp", server)
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.slow
def test_record_without_a_server(qmpctl: Run, tmp_path: Path, until: Until) -> None:
    here = tmp_path / "a.sock"
    argv = [str(BIN / "qmpctl"), "record", "--qmp", f"unix:{tmp_path}/none", "--listen"]
    with subprocess.Popen([*argv, f"unix:{here}", "-"], stderr=subprocess.PIPE) as process:
        until(lambda: listens(here))
        with contextlib.suppress(Exception):
            converse(here)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait(10) == 3
    assert said == f"qmpctl: unix:{tmp_path}/none: No such file or directory\n"
    here.write_text("somebody else's")
    ran = qmpctl(*argv[1:], f"unix:{here}", "-")
    assert (ran.returncode, ran.stderr) == (
        1,
        f"qmpctl: unix:{here}: Address already in use\n",
    )
    assert here.exists()
    ran = qmpctl("record", "--qmp", "unix:x", "--listen", "unix:/nonexistent/a", "-")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_record_is_ended_by_a_signal(tmp_path: Path, until: Until, how: signal.Signals) -> None:
    here = tmp_path / "a.sock"
    argv = [str(BIN / "qmpctl"), "record", "--qmp", "unix:x", "--listen", f"unix:{here}", "-"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        until(lambda: listens(here))
        process.send_signal(how)
        assert process.wait(10) == 128 + how
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert not here.exists()


def test_exact_ones_are_replayed(qmpctl: Run, server: str, tmp_path: Path) -> None:
    text = """#! exact
$ -S
-> {"execute": "qmp_capabilities"}
<- {"return": {}}
-> {"execute": "query-name"}
<- {"return": {"name": "tested"}}
+> {"id":
=> 1}
<- {"id": 1, "error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"}}
$ -S
-> {"execute": "query-name"}
<- {"error": {"class": "CommandNotFound", "desc": "<any>"}}
"""
    file = tmp_path / "t"
    assert replayed(qmpctl, server, file, text) == (0, "")
    status, said = replayed(qmpctl, server, file, text.replace('"class"', '"claß"'))
    assert status == 1
    assert said.startswith(f"{file}: line 9: (no command): error.claß: missing")
    status, said = replayed(qmpctl, server, file, text + "-> {}" * 50 + "\n")
    assert status == 1
    assert said.startswith(f"{file}: at the end: (no command): unexpected answer")
    file.write_text(text + "2-> {}\n")
    ran = qmpctl("replay", "--qmp", server, str(file))
    assert (ran.returncode, ran.stderr) == (2, "qmpctl: 2 clients need 2 servers' addresses\n")
