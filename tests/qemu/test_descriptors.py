"""Passed file descriptors, devices and yank: this program and a real QEMU asked the same."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmpserver.releases import Release
from tests.conftest import Until, listens

OURS = [sys.executable, "-m", "qmpserver.cli", "-accel", "soft", "-m", "8M"]


class Monitor:
    """A client that passes descriptors."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")
        # QEMU may first send an answer that the client before could not get any more.
        while "QMP" not in json.loads(self.lines.readline()):
            pass
        enable = {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
        self.socket.sendall(json.dumps(enable).encode())
        assert json.loads(self.lines.readline()) == {"return": {}}

    def __call__(self, name: str, *fds: int, oob: bool = False, **arguments: Any) -> Any:
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        message = {"exec-oob" if oob else "execute": name, "arguments": named}
        socket.send_fds(self.socket, [json.dumps(message).encode()], fds)
        return json.loads(self.lines.readline() or "null")

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@contextlib.contextmanager
def running(argv: list[str], directory: Path, until: Until, *options: str) -> Iterator[Path]:
    path = directory / "q"
    monitor = f"unix:{path},server=on,wait=off"
    command = [*argv, "-display", "none", "-qmp", monitor, *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.PIPE) as process:
        try:
            until(lambda: listens(path))
            yield path
        finally:
            process.terminate()


def pass_descriptors(argv: list[str], directory: Path, until: Until) -> list[Any]:
    """Return all answers, with descriptors numbered as they turn up."""
    reader, writer = os.pipe()
    with running(argv, directory, until) as path:
        ask = Monitor(path)
        said = [
            ask("getfd", fdname="a"),
            ask("getfd", reader, fdname="1a"),
            ask("getfd", reader, fdname=""),
            ask("getfd", reader, writer, fdname="b"),
            ask("getfd", reader, fdname="b"),
            ask("closefd", fdname="b"),
            ask("closefd", fdname="b"),
            ask("getfd", reader, fdname="kept"),
            ask("add-fd"),
            ask("add-fd", reader),
            ask("add-fd", reader, opaque="x"),
            ask("add-fd", reader, writer, fdset_id=2, opaque="y"),
            ask("add-fd", writer, fdset_id=2),
            ask("add-fd", writer, fdset_id=-1),
            ask("add-fd", writer, fdset_id=5),
            ask("add-fd", writer),
            ask("query-fdsets"),
            ask("remove-fd", fdset_id=9),
            ask("remove-fd", fdset_id=2, fd=999),
            ask("remove-fd", fdset_id=1),
            ask("query-fdsets"),
            # What no command has taken stays for the next that takes one.
            ask("no-such-command", reader),
            ask("getfd", fdname="late"),
        ]
        ask.close()
        # The sets go with the last client, the names stay with the monitor.
        ask = Monitor(path)
        said += [ask("query-fdsets"), ask("closefd", fdname="kept")]
        ask.close()
    os.close(reader)
    os.close(writer)
    seen: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in seen:
            seen.append(match[1])
        return f'"fd": {seen.index(match[1])}'

    return [json.loads(re.sub(r'"fd": (\d+)', number, json.dumps(answer))) for answer in said]


@pytest.fixture
def ours(release: Release) -> list[str]:
    """The command of this program, as the release."""
    return [*OURS, "-release", release.name]


@pytest.fixture
def theirs(release_qemu: str) -> list[str]:
    """The command of the release's program."""
    return [release_qemu, "-machine", "none", "-nodefaults"]


@pytest.mark.slow
def test_descriptors(tmp_path: Path, ours: list[str], theirs: list[str], until: Until) -> None:
    assert pass_descriptors(ours, tmp_path, until) == pass_descriptors(theirs, tmp_path, until)


def show_devices(argv: list[str], directory: Path, until: Until, again: str) -> list[Any]:
    name = f"qmpserver-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(directory / "manager"))
        manager.listen()
        chardevs = [
            f"socket,id=tight,path={name}-t,abstract=on,server=on,wait=off",
            f"socket,id=loose,path={name}-l,abstract=on,tight=off,server=on,wait=off",
            f"socket,id=connected,path={directory}/manager",
            f"socket,id=again,path={directory}/manager,{again}",
            f"socket,id=late,path={directory}/nobody,{again}",
            "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off",
            "socket,id=name,host=localhost,port=0,ipv4=on,server=on,wait=off",
            "null,id=null",
            f"file,id=file,path={directory}/file",
            "stdio,id=stdio",
        ]
        options = [word for chardev in chardevs for word in ("-chardev", chardev)]
        with running(argv, directory, until, *options) as path:
            ask = Monitor(path)
            until(lambda: "again" not in _disconnected(ask("query-chardev")))
            said = [
                ask("query-chardev"),
                ask("query-yank"),
                ask("query-yank", oob=True),
                ask("yank", instances=[{"type": "chardev", "id": "nobody"}]),
                ask("yank", instances=[{"type": "chardev", "id": "null"}]),
                ask("yank", instances=[{"type": "block-node", "node-name": "n"}]),
                ask("yank", instances=[{"type": "migration"}]),
                ask("yank", instances=[{"type": "x"}]),
                ask("yank", instances=[{"type": "chardev"}]),
                ask("yank", instances=[]),
                ask("yank", oob=True, instances=[{"type": "chardev", "id": "connected"}]),
            ]
            until(lambda: "connected" in _disconnected(ask("query-chardev")))
            said += [
                ask("query-chardev"),
                ask("yank", instances=[{"type": "chardev", "id": "connected"}]),
                ask("yank", instances=[{"type": "chardev", "id": "compat_monitor0"}]),
            ]
            assert said[-1] is None  # it has shut itself
            ask.close()
            Monitor(path).close()  # is greeted
    said = [json.loads(re.sub(r":\d{4,5},", ":PORT,", json.dumps(answer))) for answer in said]
    for answer in said[:-1]:
        if isinstance(answer.get("return"), list):
            answer["return"].sort(key=json.dumps)
    return said


def _disconnected(answer: Any) -> set[str]:
    devices = answer["return"]
    return {one["label"] for one in devices if one["filename"].startswith("disconnected:")}


@pytest.mark.slow
def test_devices_and_yank(
    tmp_path: Path, release: Release, ours: list[str], theirs: list[str], until: Until
) -> None:
    again = "reconnect=60" if release.name == "qemu-7.2" else "reconnect-ms=60000"
    for place in ("ours", "qemu"):
        (tmp_path / place).mkdir()
    shown = json.dumps(show_devices(ours, tmp_path / "ours", until, again), indent=1)
    wanted = json.dumps(show_devices(theirs, tmp_path / "qemu", until, again), indent=1)
    assert shown.replace("/ours/", "/qemu/") == wanted


@pytest.mark.slow
def test_what_was_sent_before_half_closing_is_answered(tmp_path: Path, until: Until) -> None:
    """QEMU does so too, but for the last answer now and then."""
    with running(OURS, tmp_path, until) as path:
        ask = Monitor(path)
        ask.socket.sendall(b'{"execute": "query-name"}' * 200)
        ask.socket.shutdown(socket.SHUT_WR)
        assert len(ask.lines.read().splitlines()) == 200
        ask.close()
