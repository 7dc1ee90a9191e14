"""qmpctl migrate between stand-ins, which say what a test tells them to."""

import json
import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from qmpserver import CommandError
from qmpserver.testing import ServerThread
from qmpserver.tools import completion
from qmpserver.tools.completion import complete_capabilities, complete_parameters
from tests.conftest import readable
from tests.tools.conftest import BIN, PATIENCE, Run
from tests.tools.test_exec import in_bash

RAM = {"total": 64 << 20, "remaining": 32 << 20, "transferred": 32 << 20, "page-size": 4096}
ACTIVE = {"status": "active", "total-time": 1000, "ram": RAM}
DONE = {
    "status": "completed",
    "total-time": 2000,
    "downtime": 7,
    "ram": {**RAM, "transferred": 48 << 20, "mbps": 201.326592, "dirty-sync-count": 4},
}

Serve = Callable[..., ServerThread]
Pair = tuple[ServerThread, ServerThread]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Run a stand-in with this state of the machine, or another scenario."""
    with ExitStack() as stack:

        def run(**machine: Any) -> ServerThread:
            return stack.enter_context(ServerThread(scenario={"machine": machine}, max_clients=2))

        yield run


@pytest.fixture
def pair(serve: Serve) -> Pair:
    """A source whose migration takes no time, and its destination."""
    return (
        serve(status="running", **{"migration-time": 0.0}),
        serve(status="inmigrate", **{"migration-time": 0.0}),
    )


@pytest.fixture
def endless(serve: Serve) -> Pair:
    """A source whose migration does not end by itself, and its destination."""
    slow = {"migration-time": 1000.0}
    return serve(status="running", **slow), serve(status="inmigrate", **slow)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files, which is empty afterwards."""
    where = tmp_path / "tmp"
    where.mkdir()
    monkeypatch.setenv("TMPDIR", str(where))
    yield where
    assert list(where.iterdir()) == []


def migrate(pair: Pair, *words: str) -> list[str]:
    return ["migrate", *(f"unix:{one.path}" for one in pair), *words]


def migrating(pair: Pair, *words: str) -> subprocess.Popen[bytes]:
    """Start qmpctl, and wait until it shows that the migration is active."""
    process = subprocess.Popen(
        [BIN / "qmpctl", *migrate(pair, *words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    while b"active: " not in (line := process.stdout.readline()):
        assert line
    return process


def scripted(server: ServerThread, *infos: dict[str, Any]) -> None:
    """Have a server answer `query-migrate` with one after the other; the last one stays."""
    left = list(infos)

    @server.handler("query-migrate")
    def query_migrate() -> Any:
        return left.pop(0) if len(left) > 1 else left[0]


def test_progress_and_end(qmpctl: Run, pair: Pair) -> None:
    source, destination = pair
    scripted(source, {"status": "setup"}, ACTIVE, DONE)

    @destination.handler("migrate-incoming")
    def migrate_incoming(**_: Any) -> None:
        """It never runs, as a destination with -S."""

    scripted(destination, {}, {"status": "completed"})
    ran = qmpctl(*migrate(pair))
    assert (ran.returncode, ran.stderr) == (0, "")
    setup, active, end, pause = ran.stdout.splitlines()
    assert setup == "   0.0 s  setup: begins"
    assert active == "   1.0 s  active: 32 MB remain, 0 MB/s, dirtied 0 MB/s, round 0"
    assert end == "completed in 2.00 s: 48 MB, 24 MB/s, 4 rounds"
    assert pause == "downtime 7 ms, pause none; the destination's guest is 'inmigrate'"
    assert destination.running


def test_the_socket_is_private(qmpctl: Run, pair: Pair, directory: Path) -> None:
    modes = []

    @pair[1].handler("migrate-incoming")
    def migrate_incoming(uri: str, **_: Any) -> None:
        modes.append(Path(uri.removeprefix("unix:")).parent.stat().st_mode & 0o777)

    scripted(pair[1], {}, {"status": "completed"})
    assert qmpctl(*migrate(pair)).returncode == 0
    ((_, sent),) = pair[0].received("migrate")
    assert pair[1].received("migrate-incoming", uri=sent["uri"])
    assert sent["uri"].startswith(f"unix:{directory}/qmpctl-")
    assert modes == [0o700]


@pytest.mark.slow
def test_settings_of_both_sides(qmpctl: Run, pair: Pair) -> None:
    words = ["--capability", "return-path", "--capability", "auto-converge", "--bandwidth", "100"]
    words += ["--pause", "50ms", "--parameter", "multifd-channels=0x4", "--uri", "tcp:here:1"]
    assert qmpctl(*migrate(pair, *words)).returncode == 0
    for server in pair:
        server.assert_received(
            "migrate-set-capabilities",
            (
                "migrate-set-parameters",
                {"multifd-channels": 4, "max-bandwidth": 100 << 20, "downtime-limit": 50},
            ),
        )
    on = [
        [one["capability"] for _, given in server.received("migrate-set-capabilities")
         for one in given["capabilities"] if one["state"]]
        for server in pair
    ]  # fmt: skip
    assert on == [["events", "return-path", "auto-converge"], ["events", "return-path"]]
    assert pair[0].received("migrate", uri="tcp:here:1")
    assert pair[1].received("migrate-incoming", uri="tcp:here:1")


def test_without_events_it_polls(qmpctl: Run, pair: Pair) -> None:
    for server in pair:

        @server.handler("migrate-set-capabilities")
        def refuse(**_: Any) -> None:
            raise CommandError("no capabilities here")

    ran = qmpctl(*migrate(pair))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not pair[0].sent("MIGRATION")


@pytest.mark.slow
def test_pauses_before_the_switchover_are_continued(qmpctl: Run, pair: Pair) -> None:
    assert qmpctl(*migrate(pair, "--capability", "pause-before-switchover")).returncode == 0
    assert pair[0].received("migrate-continue", state="pre-switchover")


def test_the_end_as_json(qmpctl: Run, pair: Pair) -> None:
    ran = qmpctl(*migrate(pair, "--json"))
    assert (ran.returncode, ran.stderr, ran.stdout.count("\n")) == (0, "", 1)
    end = json.loads(ran.stdout)
    assert (end["status"], end["guest"], end["error"]) == ("completed", "running", "")
    assert end["source"]["ram"]["remaining"] == 0
    assert end["destination"]["status"] == "completed"
    assert end["pause"] is None or end["pause"] < 1000


def test_a_destination_that_listens_already(qmpctl: Run, pair: Pair) -> None:
    """The first socket is taken; a wildcard is reached on the machine of its monitor."""
    sockets = [{"type": "inet", "host": "::", "port": "4445"}, {"type": "unix", "path": "/x"}]
    scripted(pair[1], {"socket-address": sockets}, {"status": "completed"})
    assert qmpctl(*migrate(pair)).returncode == 0
    assert pair[0].received("migrate") == [("migrate", {"uri": "tcp:localhost:4445"})]
    assert not pair[1].received("migrate-incoming")


@pytest.mark.slow
def test_a_uri_for_a_destination_that_listens_already(qmpctl: Run, pair: Pair) -> None:
    scripted(pair[1], {"socket-address": [{"type": "unix", "path": "/x"}]}, {"status": "completed"})
    assert qmpctl(*migrate(pair, "--uri", "tcp:[::1]:5")).returncode == 0
    assert pair[0].received("migrate") == [("migrate", {"uri": "tcp:[::1]:5"})]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels(endless: Pair, number: signal.Signals, status: int) -> None:
    source, destination = endless
    with migrating(endless) as process:
        process.send_signal(number)
        shown, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (status, b"")
    assert shown.endswith(b"cancelled; the source's guest is 'running'\n")
    source.assert_received("migrate", "migrate_cancel")
    destination.wait_received("quit")


@pytest.mark.slow
def test_somebody_else_cancels(endless: Pair) -> None:
    source, _destination = endless
    with migrating(endless) as process:
        scripted(source, {"status": "cancelled"})
        shown, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (1, b"")
    assert shown.endswith(b"cancelled; the source's guest is 'running'\n")


def test_a_second_signal_does_not_wait(endless: Pair) -> None:
    source, _destination = endless

    @source.handler("migrate_cancel")
    def migrate_cancel() -> None:
        """It has no effect."""

    with migrating(endless) as process:
        process.send_signal(signal.SIGINT)
        source.wait_received("migrate_cancel")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, b"")


@pytest.mark.slow
def test_the_reader_goes(endless: Pair) -> None:
    """The migration goes on unseen, and ends as others."""
    source, _destination = endless
    with migrating(endless) as process:
        assert process.stdout is not None
        process.stdout.close()
        source.wait_received("query-migrate", count=len(source.received("query-migrate")) + 12)
        scripted(source, DONE)
        scripted(endless[1], {"status": "completed"})
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_cancel_without_effect(endless: Pair) -> None:
    source, destination = endless
    scripted(source, ACTIVE)
    with migrating(endless) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    text = "migrate_cancel has no effect within 10 s: the migration's status is 'active'"
    assert (process.returncode, said.decode()) == (1, f"qmpctl: unix:{source.path}: {text}\n")
    assert destination.running


@pytest.mark.slow
def test_both_sides_tell_why_it_failed(qmpctl: Run, endless: Pair) -> None:
    source, destination = endless
    scripted(source, ACTIVE, {"status": "failed", "error-desc": "Broken pipe"})
    scripted(destination, {}, {"status": "failed", "error-desc": "Wrong name"})
    ran = qmpctl(*migrate(endless))
    text = "qmpctl: the migration failed: source: Broken pipe; destination: Wrong name; "
    text += "the source's guest is 'running'\n"
    assert (ran.returncode, ran.stderr) == (1, text)
    destination.wait_received("quit")


@pytest.mark.slow
def test_a_failure_as_json(qmpctl: Run, pair: Pair) -> None:
    scripted(pair[0], {"status": "failed", "error-desc": "Broken pipe"})
    scripted(pair[1], {})
    ran = qmpctl(*migrate(pair, "--json"))
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    end = json.loads(ran.stdout)
    assert (end["status"], end["error"]) == ("failed", "source: Broken pipe")
    assert (end["source"]["error-desc"], end["pause"]) == ("Broken pipe", None)


def test_only_the_destination_fails(qmpctl: Run, pair: Pair) -> None:
    scripted(pair[0], DONE)
    scripted(pair[1], {}, {"status": "failed", "error-desc": "Wrong name"})
    ran = qmpctl(*migrate(pair))
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith("qmpctl: the migration failed: destination: Wrong name; ")


@pytest.mark.slow
def test_the_destination_goes(endless: Pair) -> None:
    source, destination = endless
    scripted(source, ACTIVE)
    with migrating(endless) as process:
        destination.close()
        scripted(source, {"status": "failed", "error-desc": "Broken pipe"})
        _, said = process.communicate(timeout=PATIENCE)
    text = "qmpctl: the migration failed: source: Broken pipe; destination: "
    text += f"unix:{destination.path}: the server has hung up; the source's guest is 'running'\n"
    assert (process.returncode, said.decode()) == (1, text)


@pytest.mark.slow
def test_the_source_goes(endless: Pair) -> None:
    """The destination is left alone: it may have the guest."""
    source, destination = endless
    scripted(destination, {"status": "active"})
    with migrating(endless) as process:
        source.close()
        _, said = process.communicate(timeout=PATIENCE)
    text = f"qmpctl: unix:{source.path}: the server has hung up; unix:{destination.path}: "
    assert process.returncode == 3
    assert said.decode() == f"{text}its migration is 'active', its status 'inmigrate'\n"
    assert destination.running


def test_the_source_refuses(qmpctl: Run, pair: Pair) -> None:
    @pair[0].handler("migrate")
    def refuse(**_: Any) -> None:
        raise CommandError("There's a migration process in progress")

    ran = qmpctl(*migrate(pair))
    text = "migrate is refused: There's a migration process in progress\n"
    assert (ran.returncode, ran.stderr) == (1, f"qmpctl: unix:{pair[0].path}: {text}")
    pair[1].wait_received("quit")


@pytest.mark.parametrize(
    ("words", "index", "text"),
    [
        (
            ["--capability", "none"],
            1,
            "migrate-set-capabilities is refused: Parameter 'capability'",
        ),
        (["--parameter", "none=1"], 1, "migrate-set-parameters is refused: Parameter 'none' is un"),
    ],
)
def test_settings_that_are_refused(
    qmpctl: Run, pair: Pair, words: list[str], index: int, text: str
) -> None:
    ran = qmpctl(*migrate(pair, *words))
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert ran.stderr.startswith(f"qmpctl: unix:{pair[index].path}: {text}")
    assert not pair[1].received("migrate-incoming")


def test_a_destination_that_does_not_wait(qmpctl: Run, pair: Pair) -> None:
    ran = qmpctl(*migrate((pair[0], pair[0])))
    text = "it waits for no migration, its status is 'running': start it with -incoming defer\n"
    assert (ran.returncode, ran.stderr) == (1, f"qmpctl: unix:{pair[0].path}: {text}")


@pytest.mark.parametrize("uri", ["file:/tmp/x", "exec:cat", "fd:3", "tcp:", "/tmp/x"])
def test_a_uri_that_no_two_servers_can_share(qmpctl: Run, uri: str) -> None:
    ran = qmpctl("migrate", "unix:/a", "unix:/b", "--uri", uri)
    assert ran.returncode == 2
    assert f"'{uri}' is neither unix:PATH nor tcp:HOST:PORT" in ran.stderr


def test_a_server_that_is_named_as_elsewhere(qmpctl: Run) -> None:
    ran = qmpctl("--qmp", "unix:/x", "migrate", "unix:/a", "unix:/b")
    assert ran.returncode == 2


@pytest.mark.slow
def test_a_bar_on_a_terminal(endless: Pair) -> None:
    source, destination = endless
    scripted(source, ACTIVE)
    master, slave = pty.openpty()
    with open(master, "rb", 0) as terminal:
        with open(slave, "wb", 0) as tty:
            process = subprocess.Popen(
                [BIN / "qmpctl", *migrate(endless)],
                stdout=tty,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            )
        shown = b""
        while b"32 MB remain" not in shown or "━".encode() not in shown:
            assert readable(terminal, PATIENCE), shown
            shown += terminal.read(65536)
        scripted(source, DONE)
        scripted(destination, {"status": "completed"})
        while b"\r\ndowntime 7 ms" not in shown:
            assert readable(terminal, PATIENCE), shown
            shown += terminal.read(65536)
        assert process.wait(PATIENCE) == 0


def test_names_are_completed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", shlex.join(["qmpctl", *migrate(pair, "--parameter")]))
    monkeypatch.setattr(completion, "PATIENCE_S", PATIENCE)
    assert complete_capabilities("auto") == ["auto-converge"]
    assert "multifd-channels=" in complete_parameters("multifd-c")
    assert set(complete_parameters("cpu-throttle-tailslow=")) == {
        "cpu-throttle-tailslow=true",
        "cpu-throttle-tailslow=false",
    }


@pytest.mark.slow
def test_a_shell_completes_the_names_of_the_source(pair: Pair) -> None:
    line = shlex.join(["qmpctl", *migrate(pair)])
    assert in_bash(f"{line} --capability auto") == {"auto-converge"}
    assert in_bash(f"{line} --parameter multifd-ch") == {"multifd-channels="}
    assert pair[0].path in in_bash(f"qmpctl migrate unix:{pair[0].path[:-2]}")
