"""top: its figures, its keys and its end, on this server and QEMU; in a real terminal too."""

import asyncio
import contextlib
import csv
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from qmpserver.testing import ServerThread
from qmpserver.tools.address import address
from qmpserver.tools.fitting import columns_for, cut_left, lines_for
from qmpserver.tools.top import Top
from qmpserver.tools.watching import Vcpu, Watcher, chosen, sparkline
from tests.conftest import Until, readable
from tests.tools.conftest import BIN, Run, serving

LINES, COLUMNS = 24, 110


def rows(app: Top) -> list[list[str]]:
    table = app.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(i)] for i in range(table.row_count)]


async def shown(app: Top, pilot: Pilot[str], wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not wanted():
            await pilot.pause(0.02)


@contextlib.asynccontextmanager
async def watching(*servers: str) -> AsyncIterator[tuple[Top, Pilot[str]]]:
    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(Watcher(address(one))) for one in servers]
        app = Top(watchers, 0.1)
        async with app.run_test(size=(COLUMNS, LINES)) as pilot:
            await shown(app, pilot, lambda: app.looks > 1)
            yield app, pilot


@pytest.mark.slow
async def test_keys_set_and_cancel_limits(server: str, kvm: None) -> None:
    async with watching(server) as (app, pilot):
        assert [row[1] for row in rows(app)] == ["0", "1"]
        assert [row[4] for row in rows(app)] == ["-", "-"]
        await pilot.press("down", "l", "5", "0", "enter")
        await shown(app, pilot, lambda: [row[4] for row in rows(app)] == ["-", "50"])
        assert rows(app)[1][3] == "limit"
        await pilot.press("L", "7", "enter")
        await shown(app, pilot, lambda: [row[4] for row in rows(app)] == ["7", "7"])
        await pilot.press("c")
        await shown(app, pilot, lambda: [row[4] for row in rows(app)] == ["7", "-"])
        await pilot.press("C")
        await shown(app, pilot, lambda: [row[4] for row in rows(app)] == ["-", "-"])


@pytest.mark.slow
async def test_what_is_refused_is_told(server: str, kvm: None) -> None:
    async with watching(server) as (app, pilot):
        await pilot.press("l", "x", "enter")
        await shown(
            app, pilot, lambda: any("must be a number" in n.message for n in app._notifications)
        )
        await pilot.press("l", "0", "escape")
        await pilot.press("l")
        await pilot.press(*"99999999999999999999", "enter")
        await shown(
            app, pilot, lambda: any("GenericError" in n.message for n in app._notifications)
        )
        assert [row[4] for row in rows(app)] == ["-", "-"]


@pytest.mark.slow
async def test_nothing_is_measured_unasked(server: str, kvm: None) -> None:
    async with watching(server) as (app, pilot):
        await shown(app, pilot, lambda: app.looks > 4)
        assert {(row[2], row[3]) for row in rows(app)} <= {("-", "-")}
        await pilot.press("m")
        await shown(app, pilot, lambda: rows(app)[0][3].startswith("measured"))
        assert re.fullmatch(r"measured \d+ s ago", rows(app)[0][3])


@pytest.fixture
def both(tmp_path: Path, until: Until, qemu: None, kvm: None) -> Iterator[list[str]]:
    with (
        serving("qmpserver", tmp_path, until) as ours,
        serving("qemu", tmp_path, until) as theirs,
    ):
        yield [ours, theirs]


@pytest.mark.slow
async def test_several_servers_sorted_and_filtered(both: list[str]) -> None:
    async with watching(*both) as (app, pilot):
        assert [row[1] for row in rows(app)] == ["0", "1", "0", "1"]
        text = str(app.query_one("#servers", Static).content)
        assert len(text.splitlines()) == 3
        assert "reaper event, idle: " in text
        await pilot.press("slash", *"qemu.sock", "enter")
        await shown(app, pilot, lambda: len(rows(app)) == 2)
        assert all("qemu.sock" in row[0] for row in rows(app))
        await pilot.press("s")
        text = str(app.query_one("#servers", Static).content)
        assert text.splitlines()[-1] == "sorted by rate, only 'qemu.sock'"


@pytest.mark.slow
async def test_one_server_goes_then_the_other(
    tmp_path: Path, until: Until, qemu: None, kvm: None
) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        ours = first.enter_context(serving("qmpserver", tmp_path, until))
        theirs = second.enter_context(serving("qemu", tmp_path, until))
        async with watching(ours, theirs) as (app, pilot):
            await asyncio.to_thread(first.close)
            await shown(app, pilot, lambda: len(rows(app)) == 2)
            await asyncio.to_thread(second.close)
            await shown(app, pilot, lambda: app.return_value is not None)
            assert app.return_value is not None
            assert app.return_value.count("the server has hung up") == 2


async def test_a_small_terminal() -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ServerThread(smp=4)) for _ in range(2)]
        watchers = [
            stack.enter_context(Watcher(address(f"unix:{server.path}"))) for server in servers
        ]
        app = Top(watchers, 60.0)
        async with app.run_test(size=(50, 8)) as pilot:
            await shown(app, pilot, lambda: app.looks > 0 and len(rows(app)) == 8)
            table = app.query_one(DataTable)
            assert [str(column.label) for column in table.columns.values()] == [
                "server", "vCPU", "MB/s", "limit", "throttled"
            ]  # fmt: skip
            await pilot.pause()
            assert table.virtual_size.width <= 50
            assert table.size.height >= 6  # the heads, and some vCPUs
            assert str(app.query_one("#servers", Static).content) == "2 servers, sorted by server"
            await pilot.resize_terminal(140, 30)
            await shown(app, pilot, lambda: len(table.columns) == 7)
            assert str(app.query_one("#servers", Static).content).count("running, 4 vCPUs") == 2


def test_lines_and_columns_for_a_terminal() -> None:
    everything = list(range(7))
    assert columns_for(200, 20) == (everything, 121)
    assert columns_for(79 + 12, 90) == (everything, 12)
    assert columns_for(79 + 11, 90) == ([0, 1, 2, 3, 4, 5], 37)
    assert columns_for(20, 90) == ([0, 1, 2, 4], 12)
    order = "sorted by rate"
    assert lines_for(48, 8, ["a" * 50], order) == ["a" * 47 + "…"]
    assert lines_for(48, 10, ["a" * 50, "b"], order) == ["a" * 47 + "…", "b"]
    assert lines_for(48, 13, ["a" * 50, "b"], order) == ["a" * 47 + "…", "b", order]
    assert lines_for(48, 16, ["a" * 50, "b"], order) == ["a" * 50, "b", order]
    assert lines_for(48, 10, ["a", "b", "c"], order) == ["a", f"3 servers, {order}"]
    assert cut_left("abcdef", 4) == "…def"


def test_rows_are_sorted() -> None:
    vcpus = [Vcpu("b", 0, rate=5.0), Vcpu("a", 1, limit=3), Vcpu("a", 0, rate=7.0, throttled=0.5)]

    def order(sort: str, only: str = "") -> list[str]:
        return [f"{v.server}{v.index}" for v in chosen(vcpus, sort, only)]

    assert order("server") == ["a0", "a1", "b0"]
    assert order("rate") == ["a0", "b0", "a1"]
    assert order("limit")[0] == "a1"
    assert order("throttled")[0] == "a0"
    assert order("server", "vcpu 1") == ["a1"]


def test_sparkline() -> None:
    vcpu = Vcpu("a", 0)
    vcpu.history.extend([0, 50, 100])
    assert sparkline(vcpu.history) == "▁▅█"
    vcpu.history.clear()
    assert sparkline(vcpu.history) == ""


@pytest.mark.slow
def test_once(qmpctl: Run, server: str, kvm: None) -> None:
    assert qmpctl("--qmp", server, "exec", "set-vcpu-dirty-limit", "dirty-rate=40").returncode == 0
    ran = qmpctl("--qmp", server, "top", "--once", "--interval", "0.2")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "tested (unix:" in ran.stdout
    assert re.search(r"  1 +\d+ +limit +40 ", ran.stdout)
    ran = qmpctl(
        "--qmp", server, "top", "--once", "--csv", "--interval", "0.2", "--filter", "cpu 1"
    )
    assert qmpctl("--qmp", server, "exec", "cancel-vcpu-dirty-limit").returncode == 0
    (line,) = csv.DictReader(io.StringIO(ran.stdout))
    assert (line["vcpu"], line["source"], line["age"], line["limit"]) == ("1", "limit", "0.0", "40")
    assert abs(float(line["time"]) - time.time()) < 10


@pytest.mark.slow
def test_no_terminal_and_no_server(qmpctl: Run, server: str, tmp_path: Path) -> None:
    ran = qmpctl("--qmp", server, "top")
    assert (ran.returncode, ran.stderr) == (
        2,
        "qmpctl: this is no terminal: use --once or --csv\n",
    )
    ran = qmpctl("--qmp", f"unix:{tmp_path}/none", "top", "--once")
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)
    assert qmpctl("top").returncode == 2


class Terminal:
    """qmpctl top in a terminal of its own."""

    def __init__(self, server: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        self.process = subprocess.Popen(
            [BIN / "qmpctl", "--qmp", server, "top", "--interval", "0.2"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color"},
        )

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.text:
            assert readable(self.master, deadline - time.monotonic()), self.text
            self.text += os.read(self.master, 65536).decode(errors="replace")

    def ended(self) -> tuple[int, str]:
        """Exit status, and what was said after it; the terminal is as it was before."""
        deadline = time.monotonic() + 20
        while True:
            ready = readable(self.master, 0.05)
            if ready:  # it waits until all is read
                self.text += os.read(self.master, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                break
            assert time.monotonic() < deadline, self.text[-2000:]
        assert termios.tcgetattr(self.slave)[:4] == self.before[:4]
        _, left, said = self.text.rpartition("\x1b[?1049l")
        assert left
        said = re.sub(r"\x1b\[[<>?=0-9;]*[a-zA-Z]", "", said)
        return self.process.returncode, said.replace("\r\n", "\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.mark.slow
def test_in_a_real_terminal(server: str) -> None:
    for end in (b"q", b"\x03", signal.SIGTERM):
        with contextlib.closing(Terminal(server)) as terminal:
            terminal.wait_for("throttled")
            terminal.wait_for("server")
            if isinstance(end, bytes):
                os.write(terminal.master, end)
            else:
                terminal.process.send_signal(end)
            assert terminal.ended() == (0, "")


@pytest.mark.slow
def test_the_server_goes_in_a_real_terminal(tmp_path: Path, until: Until) -> None:
    with contextlib.ExitStack() as running:
        server = running.enter_context(serving("qmpserver", tmp_path, until))
        with contextlib.closing(Terminal(server)) as terminal:
            terminal.wait_for("throttled")
            running.close()
            status, said = terminal.ended()
    assert status == 3
    assert said.startswith(f"qmpctl: {server}: ")
    assert said.endswith("the server has hung up\n")
    assert said.count("\n") == 1
