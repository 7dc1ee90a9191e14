"""exec and wait against stand-ins, in this process: several commands, hints, work that goes on."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qmpserver.testing import ServerThread
from qmpserver.tools.qmpctl import main

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run qmpctl; return its status, output and errors."""

    def call(server: ServerThread, *words: str, stdin: str = "") -> Ran:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("latin-1"))))
        status = main(["--qmp", f"unix:{server.path}", *words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread() as running:
        yield running


@pytest.mark.parametrize("fault", ["event-before-greeting", "event-before-reply:qmp_capabilities"])
def test_events_during_the_negotiation(run: Run, fault: str) -> None:
    with ServerThread(fault=fault) as server:
        assert run(server, "exec", "query-name", "--json") == (0, "{}\n", "")
        assert run(server, "wait", "RTC_CHANGE", "offset=0", "--json")[0] == 0


def test_a_path_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/x/" + "é" * 53
    with pytest.raises(SystemExit) as ended:
        main(["--qmp", f"unix:{path}", "exec", "stop"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    limit = 108 if sys.platform == "linux" else 104
    assert f"UNIX socket path '{path}' is too long: it must be less than {limit} bytes" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "qery-status",
            "qmpctl: unknown command 'qery-status'; did you mean 'query-status'?\n"
            "CommandNotFound: The command qery-status has not been found\n",
        ),
        ("xyz", "CommandNotFound: The command xyz has not been found\n"),
        (
            "calc-dirty-rate calc-tme=1 zzz=2",
            "qmpctl: unknown argument 'calc-tme'; did you mean 'calc-time'?\n"
            "qmpctl: unknown argument 'zzz'\n"
            "GenericError: Parameter 'calc-time' is missing\n",
        ),
        ("calc-dirty-rate calc-time=1 zzz=2", "GenericError: Parameter 'zzz' is unexpected\n"),
        (
            "calc-dirty-rate calc-time=1 mode=dirty-rng",
            "qmpctl: unknown value 'mode=dirty-rng'; did you mean 'mode=dirty-ring'?\n"
            "GenericError: Parameter 'mode' does not accept value 'dirty-rng'\n",
        ),
        (
            "device_add drver=e1000 mac=52:54:00:12:34:56",
            "qmpctl: unknown argument 'drver'; did you mean 'driver'?\n"
            "GenericError: Parameter 'driver' is missing\n",
        ),
        (
            "migrate-set-capabilities capabilities.0.capability=evnts capabilities.0.stat=on",
            "qmpctl: unknown value 'capabilities.0.capability=evnts'; did you mean "
            "'capabilities.0.capability=events'?\n"
            "qmpctl: unknown argument 'capabilities.0.stat'; did you mean 'capabilities.0.state'?\n"
            "GenericError: Parameter 'capability' does not accept value 'evnts'\n",
        ),
        ("device_del id=nobody", "DeviceNotFound: Device 'nobody' not found\n"),
    ],
)
def test_near_misses(run: Run, server: ServerThread, words: str, said: str) -> None:
    assert run(server, "exec", *words.split()) == (1, "", said)


def test_other_near_misses(run: Run, server: ServerThread) -> None:
    said = "qmpctl: the server has no command or event 'stpo'; did you mean 'stop'?\n"
    assert run(server, "schema", "stpo") == (2, "", said)
    said = "qmpctl: the server has no event 'STPO'; did you mean 'STOP'?\n"
    assert run(server, "wait", "STPO") == (2, "", said)
    status, _, said = run(server, "exec", "--json", "qery-status")
    assert (status, list(json.loads(said))) == (1, ["error"])


def test_several_commands(run: Run, server: ServerThread) -> None:
    words = ["stop", "query-memory-size-summary", "cont", "nope", "query-name"]
    status, output, said = run(server, "exec", "--json", "--each", *words)
    summary = '{"base-memory": 134217728, "plugged-memory": 0}'
    assert (status, output) == (1, f"{{}}\n{summary}\n{{}}\n")
    assert "CommandNotFound" in said
    lines = """
        # a comment
        netdev_add type=user id=n0 hostname='n 0'
        {"execute": "netdev_add", "arguments": {"type": "user", "id": "m", "hostname": "n 1"}}
        query-name
    """
    assert run(server, "exec", "-", "--json", stdin=lines) == (0, "{}\n{}\n{}\n", "")
    assert [one.arguments["hostname"] for one in server.received("netdev_add")] == ["n 0", "n 1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("\nstop '", "line 2: No closing quotation: stop '"),
        ('{"execute": "stop", "more": 1}', 'line 1: not a command: {"execute": "stop", "more": 1}'),
        ('{"execute": 5}', 'line 1: not a command: {"execute": 5}'),
        ("{", "line 1: not a command: { ("),
        ("stop x", "'x' is not key=value"),
        ("netdev_del id=\xff", "'id' is given bytes that are not UTF-8"),
        ("#" * (1 << 20), "a line of stdin has more than 1048575 characters"),
    ],
)
def test_lines_that_are_no_commands(run: Run, server: ServerThread, line: str, said: str) -> None:
    status, output, error = run(server, "exec", "-", stdin=line)
    assert (status, output) == (2, "")
    assert error.startswith(f"qmpctl: {said}")
    assert error.count("\n") == 1


def test_an_event_is_waited_for(run: Run) -> None:
    events: list[dict[str, Any]] = [
        {"event": "STOP"},
        {"event": "DEVICE_DELETED", "data": {"device": "a", "path": "/a"}},
        {"event": "DEVICE_DELETED", "data": {"device": "b", "path": "/b"}, "after": 0.05},
    ]
    rule = {"command": "qmp_capabilities", "events": events}
    with ServerThread(scenario={"on": [rule]}) as server:
        status, output, _ = run(server, "wait", "DEVICE_DELETED", "device=b")
        assert (status, json.loads(output)["data"]["path"]) == (0, "/b")
        status, output, _ = run(server, "wait", "--json", "STOP")
        assert (status, output.count("\n")) == (0, 1)
        said = f"qmpctl: unix:{server.path}: no RESUME within 0.1 s\n"
        assert run(server, "wait", "RESUME", "--timeout", "0.1") == (1, "", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("STOP foo=1", "STOP has no data"),
        (
            "DEVICE_DELETED devce=x",
            "the data of DEVICE_DELETED has no member 'devce'; did you mean 'device'?",
        ),
        (
            "JOB_STATUS_CHANGE status=conclude",
            "the data of JOB_STATUS_CHANGE has no value 'status=conclude'; "
            "did you mean 'status=concluded'?",
        ),
    ],
)
def test_an_event_that_cannot_come(run: Run, server: ServerThread, words: str, said: str) -> None:
    assert run(server, "wait", *words.split()) == (2, "", f"qmpctl: {said}\n")


def test_several_commands_some_of_which_go_on(run: Run, server: ServerThread) -> None:
    words = ["--each", "--wait", "--json", "query-name", "calc-dirty-rate calc-time=1", "stop"]
    status, output, said = run(server, "exec", *words)
    assert (status, said) == (0, "")
    name, rate, stopped = map(json.loads, output.splitlines())
    assert (name, rate["status"], stopped) == ({}, "measured", {})


MIGRATION = {"machine": {"migration-time": 0.01, "migration-peer": False}}
NODE = {"driver": "null-co", "node-name": "n"}
STREAM: dict[str, Any] = {
    "setup": [
        {"command": "blockdev-add", "arguments": one} for one in (NODE, {**NODE, "node-name": "t"})
    ]
}
NO_DUMP = {"status": "failed", "completed": 0, "total": 0}
FAILED = {"status": "failed", "error-desc": "no route"}
CANCELLED = {"device": "j", "len": 1, "offset": 0, "speed": 0, "type": "stream"}
JOB: dict[str, Any] = {
    "id": "j",
    "type": "create",
    "status": "running",
    "current-progress": 1,
    "total-progress": 2,
}


def jobs(*last: dict[str, Any]) -> dict[str, Any]:
    """Return a scenario in which a job runs at first."""
    answers: list[dict[str, Any]] = [
        {"return": [JOB], "times": 1},
        {"return": [{**JOB, **one} for one in last]},
    ]
    return STREAM | {"on": [{"command": "query-jobs", **one} for one in answers]}


def rates(*statuses: str) -> dict[str, Any]:
    info = {"start-time": 0, "calc-time": 1, "sample-pages": 512, "mode": "page-sampling"}
    return {
        "schema": "qemu-7.2",  # later ones have a unit of the time, too
        "on": [
            {"command": "query-dirty-rate", "times": 1, "return": {**info, "status": status}}
            for status in statuses
        ],
    }


@pytest.mark.parametrize(
    ("scenario", "words", "outcome"),
    [
        (
            rates("unstarted", "measuring", "measured"),
            "calc-dirty-rate calc-time=1",
            {"status": "measured"},
        ),
        (MIGRATION, "migrate uri=tcp:a:1", {"status": "completed"}),
        (
            {"setup": [{"command": "device_add", "arguments": {"driver": "e1000", "id": "n"}}]},
            "device_del id=n",
            {"device": "n"},
        ),
        (STREAM, "block-stream device=n job-id=j", {"type": "stream", "device": "j"}),
        (STREAM, "blockdev-mirror device=n target=t sync=full job-id=j", {"status": "ready"}),
        (jobs({"status": "concluded"}), "block-stream device=n job-id=j", {"status": "concluded"}),
        (jobs(), "block-stream device=n job-id=j", {"device": "j"}),
        (
            {"on": [{"command": "system_powerdown", "shutdown": "guest-shutdown"}]},
            "system_powerdown",
            {"guest": True},
        ),
        (
            {},
            "dump-guest-memory paging=false protocol=file:/dev/null detach=true",
            {"total": 128 << 20},
        ),
        ({}, "migrate_cancel", {}),
    ],
)
def test_work_is_waited_for(
    run: Run, scenario: dict[str, Any], words: str, outcome: dict[str, Any]
) -> None:
    with ServerThread(scenario=scenario) as server:
        status, output, said = run(server, "exec", "--wait", "--json", *words.split())
    assert (status, said) == (0, "")
    assert json.loads(output).items() >= outcome.items()


@pytest.mark.parametrize(
    ("scenario", "words", "said"),
    [
        (
            {"on": [{"command": "query-migrate", "return": FAILED}]},
            "migrate uri=tcp:a:1",
            "the migration has failed: no route",
        ),
        (
            {"on": [{"command": "query-migrate", "return": {"status": "cancelled"}}]},
            "migrate uri=tcp:a:1",
            "the migration has been cancelled",
        ),
        (
            jobs({"status": "concluded", "error": "no room"}),
            "block-stream device=n job-id=j",
            "job j has failed: no room",
        ),
        (
            STREAM
            | {
                "on": [
                    {
                        "command": "block-stream",
                        "return": {},
                        "events": [{"event": "BLOCK_JOB_CANCELLED", "data": CANCELLED}],
                    },
                    {"command": "query-jobs", "return": [JOB]},
                ]
            },
            "block-stream device=n job-id=j",
            "job j has been cancelled",
        ),
        (
            rates(*["measuring"] * 9),
            "calc-dirty-rate calc-time=1 --timeout 0.01",
            "{}: calc-dirty-rate has not ended within 0.01 s",
        ),
        (
            {"on": [{"command": "query-dump", "return": NO_DUMP}]},
            "dump-guest-memory paging=false protocol=file:/dev/null detach=true",
            "the dump has failed",
        ),
        (
            {
                "machine": {"unplug-time": 9.0},
                "setup": [{"command": "device_add", "arguments": {"driver": "e1000", "id": "n"}}],
                "on": [
                    {
                        "command": "device_del",
                        "events": [
                            {
                                "event": "DEVICE_UNPLUG_GUEST_ERROR",
                                "data": {"device": "n", "path": "/machine/peripheral/n"},
                            }
                        ],
                    }
                ],
            },
            "device_del id=n",
            "the guest does not release n",
        ),
    ],
)
def test_work_that_fails(run: Run, scenario: dict[str, Any], words: str, said: str) -> None:
    with ServerThread(scenario=scenario) as server:
        path = f"unix:{server.path}"
        assert run(server, "exec", "--wait", *words.split()) == (
            1,
            "",
            f"qmpctl: {said.format(path)}\n",
        )


def test_work_that_is_done_at_once(run: Run, server: ServerThread) -> None:
    status, output, said = run(server, "exec", "--wait", "query-name")
    assert (status, output) == (2, "")
    assert said.startswith("qmpctl: --wait: the work of query-name is done when it is answered")
