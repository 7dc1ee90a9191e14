"""The same lines to this program's human monitor and to a real QEMU's, byte for byte."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from qmpserver.human import commands
from qmpserver.releases import Release
from tests.conftest import Until, listens

PATIENCE = 30.0
PROMPT = b"(qemu) "
OURS_ALONE = {"info dirty_ring"}

# What truthfully differs.
DIFFERENT = [
    (rb"thread_id=\d+", b"thread_id=N"),
    (rb"model=\w+", b"model=M"),
    (rb"Start Time: \d+", b"Start Time: N"),
    (rb'(?m)(^|"|QEMU )\d+\.\d+\.\d+.*?( monitor|\r|\\r)', rb"\1VERSION\2"),
]

# All that have a help of their own.
NAMES = [name for one in commands() for name in one.name.split("|") if name != "info"]
NAMES += [f"info {one.name}" for table in commands() for one in table.sub_table]

LINES = [
    *["info status", "info version", "info name", "info kvm", "info cpus"],
    *["info vcpu_dirty_limit", "info dirty_rate", "info  status  ", "\tinfo\tname"],
    *["info foo", "info", "info status x", "info status -x", "infostatus", "Info status"],
    *["", " ", "foo", "foo bar", "  foo bar", "HELP", "/", "info/status", "stop/x", "stop x"],
    *["q x", "quit now", "info /", "info foo bar", "info kvm/x", "sto", "inf status"],
    *["unknown \u00e9", "\u00e9 x", "cpu", "cpu x", "cpu 7", "cpu -1", "cpu 1", "info cpus"],
    *["cpu 0x100000000", "cpu 1 1", "cpu 2-2", "info cpus"],
    # Expressions
    *["set_vcpu_dirty_limit", "set_vcpu_dirty_limit x", "set_vcpu_dirty_limit 1.5"],
    *["set_vcpu_dirty_limit 0x10", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 10+5", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 10 + 5 1", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 10 1", "set_vcpu_dirty_limit 10 -1", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 5 (-1)", "set_vcpu_dirty_limit 5 (1)", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 010", "info vcpu_dirty_limit", "set_vcpu_dirty_limit 08"],
    *["set_vcpu_dirty_limit 2*3+4&6 0", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 2+4*3&~1|64^1 1-1", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit (2+4)*(-3*-5)%7", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit -7/2+100", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit -7%4+100", "info vcpu_dirty_limit", "set_vcpu_dirty_limit 'a'"],
    *["info vcpu_dirty_limit", "set_vcpu_dirty_limit 'a", "set_vcpu_dirty_limit '"],
    *["set_vcpu_dirty_limit ''", "set_vcpu_dirty_limit (5", "set_vcpu_dirty_limit 5)"],
    *["set_vcpu_dirty_limit ((5) x", "set_vcpu_dirty_limit 5+", "set_vcpu_dirty_limit 5 +"],
    *["set_vcpu_dirty_limit 5/0", "set_vcpu_dirty_limit 5%(1-1)", "set_vcpu_dirty_limit 5k"],
    *["set_vcpu_dirty_limit 0x", "set_vcpu_dirty_limit 0xg", "set_vcpu_dirty_limit $nothing"],
    *["set_vcpu_dirty_limit 18446744073709551616", "set_vcpu_dirty_limit " + "9" * 500],
    *["set_vcpu_dirty_limit 9223372036854775807", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit 18446744073709551615", "info vcpu_dirty_limit"],
    *["set_vcpu_dirty_limit -5", "info vcpu_dirty_limit", "set_vcpu_dirty_limit 5 1 2"],
    *["set_vcpu_dirty_limit 5 x", "set_vcpu_dirty_limit 5 2", "set_vcpu_dirty_limit 5 -2"],
    *["set_vcpu_dirty_limit 5 99999999999", 'set_vcpu_dirty_limit "5"'],
    "set_vcpu_dirty_limit " + "(" * 1000 + "9" + ")" * 1000,
    "set_vcpu_dirty_limit " + "-" * 1000 + "9",
    *["info vcpu_dirty_limit", "set_vcpu_dirty_limit 0 1", "info vcpu_dirty_limit"],
    *["cancel_vcpu_dirty_limit 7", "cancel_vcpu_dirty_limit x", "cancel_vcpu_dirty_limit 0 0"],
    *["cancel_vcpu_dirty_limit 0", "info vcpu_dirty_limit", "cancel_vcpu_dirty_limit"],
    *["cancel_vcpu_dirty_limit -1", "info vcpu_dirty_limit"],
    # Flags
    *["calc_dirty_rate", "calc_dirty_rate x", "calc_dirty_rate 0", "calc_dirty_rate -r 0"],
    *["calc_dirty_rate -r", "calc_dirty_rate -r -b 1", "calc_dirty_rate -b -r 1"],
    *["calc_dirty_rate -x 1", "calc_dirty_rate -- 1", "calc_dirty_rate -1"],
    *["calc_dirty_rate -rb 1", "calc_dirty_rate -r -r 1", "calc_dirty_rate 1 -r"],
    *["calc_dirty_rate -r 100", "calc_dirty_rate -r (-1)", "calc_dirty_rate -r 1 500"],
    *["calc_dirty_rate -b 60", "calc_dirty_rate 1 2 3", "calc_dirty_rate -r1", "info dirty_rate"],
    *["calc_dirty_rate -r 1"],
    # Run states
    *["stop", "info status", "cont", "c", "info status", "s", "info status"],
    *["info uuid", "system_powerdown", "system_reset", "info status", "system_reset x"],
    # Help
    *(f"help {name}" for name in NAMES if name not in OURS_ALONE),
    *["? stop", "help foo", "help foo bar", "help info foo", "help stop cont", 'help "stop'],
    *['help "stop"', 'help "st\\"op" x', 'help "a\\qb"', "help  stop  ", "help st"],
    "help " + "info " * 17,
    *["help info status now", "help\tcont", "help/x", "info history"],
]

# What is entered up to the tab, where both know the same names.
TABS = [
    *["set_v", "can", "con", "info vcpu", "info kv", "info na", "info dirty_ra", "info versi"],
    *["help set_v", "? can", "help info kv", "help help", "xyz", "set_vcpu_dirty_limit "],
    *["calc_dirty_rate -x ", '"can', "info foo x", "info kvm ", "  can", "set_vcpu_dirty_limit x "],
    "a b c d e f g h i j k l m n o p q",
]


class Monitors:
    """A running program with a QMP and a human monitor."""

    def __init__(self, argv: list[str], directory: Path, accel: str, until: Until) -> None:
        paths = [directory / "qmp", directory / "hmp"]
        devices = [f"socket,id={path.name},path={path},server=on,wait=off" for path in paths]
        options = ["-accel", accel, "-smp", "2", "-m", "64M", "-S", "-name", "compared"]
        options += ["-display", "none", "-chardev", devices[0], "-mon", "qmp,mode=control"]
        options += ["-chardev", devices[1], "-mon", "chardev=hmp,mode=readline"]
        self._clients: list[socket.socket | BinaryIO] = []
        # QEMU complains of strings that do not end on its standard output.
        self.process = subprocess.Popen(
            [*argv, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: listens(paths[1]) or self.process.poll() is not None)
            self.hmp = self._connect(paths[1])
            self.qmp_socket = self._connect(paths[0])
            self.replies = self.qmp_socket.makefile("rb")
            self._clients.append(self.replies)
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        self._clients.append(client)
        client.connect(str(path))
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.process.kill()
        self.process.wait()

    def read_prompt(self) -> bytes:
        shown = b""
        while not shown.endswith(PROMPT):
            data = self.hmp.recv(65536)
            if not data:
                break
            shown += data
        return shown

    def enter(self, keys: bytes) -> bytes:
        self.hmp.sendall(keys)
        return comparable(self.read_prompt())

    def qmp(self, name: str, **arguments: object) -> object:
        self.qmp_socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            message = json.loads(self.replies.readline())
            if "return" in message or "error" in message:
                return message

    def human(self, line: str, **arguments: object) -> bytes:
        message = self.qmp("human-monitor-command", **{"command-line": line}, **arguments)
        return comparable(json.dumps(message, sort_keys=True).encode())


def comparable(shown: bytes) -> bytes:
    for pattern, same in DIFFERENT:
        shown = re.sub(pattern, same, shown)
    return shown


Both = Callable[[str], AbstractContextManager[tuple[Monitors, Monitors]]]


@pytest.fixture(scope="module")
def both(release: Release, release_qemu: str, until: Until) -> Both:
    """A function that starts our program and QEMU, with an accelerator."""

    @contextlib.contextmanager
    def start(accel: str) -> Iterator[tuple[Monitors, Monitors]]:
        ours = [sys.executable, "-m", "qmpserver.cli", "-release", release.name]
        with contextlib.ExitStack() as stack:
            monitors = []
            for argv in (ours, [release_qemu]):
                directory = Path(tempfile.mkdtemp(prefix="hmp"))
                stack.callback(shutil.rmtree, directory)
                monitors.append(Monitors(argv, directory, accel, until))
                stack.callback(monitors[-1].close)
            yield monitors[0], monitors[1]

    return start


RING = "kvm,dirty-ring-size=4096"
pytestmark = pytest.mark.usefixtures("kvm")


def assert_same(
    line: str, ours: Callable[[], bytes], theirs: Callable[[], bytes], until: Until
) -> None:
    """Compare what both show for a line."""
    shown = ours()
    if line == "info dirty_rate":  # QEMU's thread may not have begun to measure
        until(lambda: theirs() == shown)
    else:
        assert shown == theirs(), line


@pytest.mark.serial
def test_on_a_socket(both: Both, until: Until) -> None:
    with both(RING) as (ours, theirs):
        assert comparable(ours.read_prompt()) == comparable(theirs.read_prompt())
        for line in LINES:
            if line == "info" or "\t" in line:
                continue  # all that there is; completion
            keys = f"{line}\r".encode()
            assert_same(line, partial(ours.enter, keys), partial(theirs.enter, keys), until)
        # No prompt comes after the last line.
        assert ours.enter(b"q\n") == theirs.enter(b"q\n") == b"q\x1b[K\r\n"
        assert ours.process.wait(PATIENCE) == theirs.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_human_monitor_command(both: Both, until: Until) -> None:
    with both(RING) as (ours, theirs):
        for monitors in (ours, theirs):
            monitors.replies.readline()
            monitors.qmp("qmp_capabilities")
        for line in LINES:
            if line != "info":
                assert_same(line, partial(ours.human, line), partial(theirs.human, line), until)
        for index in (0, 1, 2, -1):
            arguments = {"cpu-index": index}
            assert ours.human("info cpus", **arguments) == theirs.human("info cpus", **arguments)
        # That was for the one command only.
        assert ours.human("info cpus") == theirs.human("info cpus")
        assert ours.qmp("human-monitor-command") == theirs.qmp("human-monitor-command")
        assert ours.human("quit") == theirs.human("quit")


@pytest.mark.slow
def test_without_a_ring(both: Both, until: Until) -> None:
    lines = ["set_vcpu_dirty_limit 5", "cancel_vcpu_dirty_limit", "info vcpu_dirty_limit"]
    with both("kvm") as (ours, theirs):
        ours.read_prompt()
        theirs.read_prompt()
        for line in [*lines, "calc_dirty_rate -r 1", "info dirty_rate"]:
            keys = f"{line}\n".encode()
            assert_same(line, partial(ours.enter, keys), partial(theirs.enter, keys), until)


@pytest.mark.slow
def test_all_help_is_qemus(both: Both) -> None:
    with both(RING) as (ours, theirs):
        ours.read_prompt()
        theirs.read_prompt()
        for line in (b"help\n", b"info\n", b"help info\n"):
            shown = ours.enter(line)
            for name in OURS_ALONE:
                entry = rb"(?m)^%b .*\n(?:\t.*\n)*" % name.encode()
                shown = re.sub(entry, b"", shown)
            entry = rb"\S[^\n]*\n(?:\t[^\n]*\n)*"
            entries = re.findall(entry, shown)
            assert len(entries) > 8
            wanted = set(entries)
            assert entries == [
                one for one in re.findall(entry, theirs.enter(line)) if one in wanted
            ]


@pytest.mark.parametrize("before", TABS)
def test_completion(before: str, pair: tuple[Monitors, Monitors]) -> None:
    ours, theirs = pair
    keys = f"{before}\t\r".encode()
    assert ours.enter(keys) == theirs.enter(keys)


@pytest.fixture(scope="module")
def pair(both: Both) -> Iterator[tuple[Monitors, Monitors]]:
    with both("kvm") as (ours, theirs):
        ours.read_prompt()
        theirs.read_prompt()
        yield ours, theirs
