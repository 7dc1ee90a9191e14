"""The figures of `top`, of a server whose answers the test gives."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qmpserver.tools import watching
from qmpserver.tools.address import ServerAddress
from qmpserver.tools.errors import ServerError
from qmpserver.tools.watching import QUERY_RING, Vcpu, View, Watcher, cells, summary

Answers = dict[str, Any]


def ring(pages: int, throttled_ns: int, *, tracking: bool = True, **more: Any) -> dict[str, Any]:
    vcpu = {"cpu-index": 0, "pages-harvested": pages, "waiting": 0, "throttle-time": throttled_ns}
    return {
        "mode": "event",
        "tracking": tracking,
        "in-service": False,
        "reset-shortfalls": 0,
        "reaper": {"state": "idle", "turns": 3, "kicks": 2},
        "vcpus": [vcpu | {"full-exits": 4, "overflows": 0} | more],
    }


@pytest.fixture
def answers() -> Answers:
    return {
        "qmp_capabilities": {},
        "query-name": {"name": "tested"},
        "query-status": {"status": "running"},
        "query-cpus-fast": [{"cpu-index": 0}, {"cpu-index": 1}],
    }


@pytest.fixture
def where(tmp_path: Path, answers: Answers) -> Iterator[ServerAddress]:
    """The address of a server that gives these answers; None stands for an error."""

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
            while request := client.recv(4096):
                name = json.loads(request)["execute"]
                commands = [{"name": one} for one in answers]
                result = commands if name == "query-commands" else answers[name]
                answer = {"return": result}
                if result is None:
                    answer = {"error": {"class": "GenericError", "desc": "no"}}
                client.sendall(json.dumps(answer).encode() + b"\n")

    def accept() -> None:
        with suppress(OSError):
            serve(listener.accept()[0])

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/q")
        listener.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield ServerAddress(f"{tmp_path}/q")


def test_a_server_that_reports_little(where: ServerAddress, answers: Answers) -> None:
    answers["query-vcpu-dirty-limit"] = None
    with Watcher(where) as watcher:
        view = watcher.look()
        assert watcher.name == f"tested ({where})"
    assert (view.status, view.ring) == ("running", None)
    assert [cells(vcpu)[1:] for vcpu in view.vcpus] == [
        ("0", "-", "-", "-", "-"),
        ("1", "-", "-", "-", "-"),
    ]
    assert summary("it", view) == "it: running, 2 vCPUs"


def test_limits(where: ServerAddress, answers: Answers) -> None:
    limit = {"cpu-index": 1, "limit-rate": 40, "current-rate": 39}
    answers["query-vcpu-dirty-limit"] = [limit, limit | {"cpu-index": 7}]
    with Watcher(where) as watcher:
        watcher.look()
        _, vcpu = watcher.look().vcpus
    assert cells(vcpu)[1:] == ("1", "39", "limit", "40", "-")
    assert list(vcpu.history) == [39, 39]


def test_rates_of_the_ring(
    where: ServerAddress, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    with Watcher(where) as watcher:
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: now))
        answers[QUERY_RING] = ring(1000, 10**9)
        watcher._commands.add(QUERY_RING)
        first = watcher.look().vcpus[0]
        assert (first.rate, first.throttled) == (None, None)
        now = 102.0
        answers[QUERY_RING] = ring(1000 + 5 * 256, 2 * 10**9, waiting=256)
        second = watcher.look().vcpus[0]
        assert (second.rate, second.source, second.age, second.throttled) == (3.0, "ring", 0.0, 0.5)
        now = 103.0
        answers[QUERY_RING] = ring(0, 9 * 10**9, tracking=False)
        third = watcher.look().vcpus[0]
        assert (third.rate, third.throttled) == (None, 1.0)
        now = 104.0
        answers[QUERY_RING] = ring(5, 0)
        assert watcher.look().vcpus[0].throttled == 0.0


@pytest.mark.parametrize("clock", [time.time, time.monotonic], ids=["time", "uptime"])
def test_age_of_a_measurement(
    where: ServerAddress, answers: Answers, clock: Callable[[], float]
) -> None:
    answers["query-dirty-rate"] = {
        "status": "measured",
        "start-time": int(clock()) - 30,
        "calc-time": 10,
        "vcpu-dirty-rate": [{"id": 0, "dirty-rate": 77}],
    }
    with Watcher(where) as watcher:
        vcpu, other = watcher.look().vcpus
        assert other.rate is None
        assert (vcpu.rate, vcpu.source) == (77, "measured")
        assert vcpu.age is not None
        assert 20 <= vcpu.age < 30
        assert list(vcpu.history) == []
        answers["query-dirty-rate"]["status"] = "measuring"
        assert watcher.look().vcpus[0].rate is None


def test_an_answer_of_another_shape(where: ServerAddress, answers: Answers) -> None:
    answers["query-cpus-fast"] = [{}]
    with Watcher(where) as watcher, pytest.raises(ServerError, match="makes no sense"):
        watcher.look()


def test_a_summary() -> None:
    view = View("paused", [Vcpu("a", 0)], ring(0, 0))
    assert summary("it", view) == (
        "it: paused, 1 vCPU | reaper event, idle: 3 turns, 2 kicks | tracking on, limit off"
        " | ring full 4 times"
    )
    view = View("paused", [], ring(0, 0, overflows=2) | {"reset-shortfalls": 1})
    assert summary("it", view).endswith(", 3 overflows")
