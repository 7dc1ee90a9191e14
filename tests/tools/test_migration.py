"""A migration between servers whose answers and events are the test's own."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

import qmpserver.tools.migration
from qmpserver.tools.address import ServerAddress
from qmpserver.tools.errors import RefusedError, ServerError, UsageError
from qmpserver.tools.figures import Figures
from qmpserver.tools.migration import Migration, Outcome, _user

if TYPE_CHECKING:
    from qmpserver.tools.client import Client

ACTIVE = {"status": "active", "ram": {"total": 8, "remaining": 4}}
DONE = {"status": "completed"}


class Answers:
    """A client that is answered by the test: by command, the results and the events before them."""

    def __init__(self, path: str, **results: Any) -> None:
        self.address = ServerAddress(path)
        self.socket, self._other = socket.socketpair()
        self.on_event: Callable[[dict[str, Any]], None] = lambda _event: None
        self.executed: list[str] = []
        self._results = {name.replace("_", "-"): list(given) for name, given in results.items()}

    def execute(self, command: str, *_: Any, **__: Any) -> Any:
        self.executed.append(command)
        left = self._results.get(command, [{}])
        while isinstance(result := left.pop(0) if len(left) > 1 else left[0], tuple):
            name, seconds = result
            self.on_event({"event": name, "timestamp": {"seconds": seconds, "microseconds": 250}})
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        self.socket.close()
        self._other.close()


Make = Callable[..., Answers]
Look = Callable[[Figures], object]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Answers] = []
    user = os.geteuid()
    if sys.platform != "linux":  # there it is the owner of a file, and no file is here
        monkeypatch.setattr(qmpserver.tools.migration, "_user", lambda _: user)

    def one(path: str, **results: Any) -> Answers:
        made.append(Answers(path, **results))
        return made[-1]

    yield one
    for answers in made:
        answers.close()


def followed(source: Answers, destination: Answers, look: Look = lambda _: None) -> Outcome:
    with Migration(cast("Client", source), cast("Client", destination)) as migration:
        migration.prepare()
        migration.start()
        return migration.follow(look)


INMIGRATE = {"status": "inmigrate"}
RUNNING = {"status": "running"}


def test_the_pause_is_from_stop_to_resume(make: Make) -> None:
    source = make("/a", query_migrate=[ACTIVE, ("STOP", 5), DONE])
    destination = make(
        "/b", query_migrate=[{}, ("RESUME", 7), DONE], query_status=[INMIGRATE, RUNNING]
    )
    shown: list[Figures] = []
    outcome = followed(source, destination, shown.append)
    assert (outcome.status, outcome.pause, outcome.guest) == ("completed", 2000.0, "running")
    assert [figures.status for figures in shown] == ["active"]
    assert "quit" not in destination.executed


def test_the_limits_of_vcpus_are_asked_for_while_they_serve(make: Make) -> None:
    limited = ACTIVE | {"dirty-limit-throttle-time-per-round": 9}
    limits = [{"cpu-index": i, "limit-rate": 30 + i} for i in range(2)]
    source = make("/a", query_migrate=[ACTIVE, limited, DONE], query_vcpu_dirty_limit=[limits])
    destination = make("/b", query_migrate=[{}, DONE], query_status=[INMIGRATE, RUNNING])
    shown: list[Figures] = []
    followed(source, destination, shown.append)
    assert [figures.throttling for figures in shown] == ["", "limit 30 to 31 MB/s"]
    assert source.executed.count("query-vcpu-dirty-limit") == 1


def test_a_destination_says_why_it_failed_before_it_is_ended(make: Make) -> None:
    source = make("/a", query_migrate=[{"status": "failed"}], query_status=[RUNNING])
    failed = {"status": "failed", "error-desc": "no room"}
    destination = make("/b", query_migrate=[{}, ACTIVE, failed], query_status=[INMIGRATE])
    outcome = followed(source, destination)
    assert (outcome.status, outcome.error) == ("failed", "destination: no room")
    assert outcome.guest == "running"
    assert destination.executed[-1] == "quit"


def test_an_older_destination_is_told_to_listen_as_it_understands(make: Make) -> None:
    unexpected = RefusedError("GenericError", "Parameter 'exit-on-error' is unexpected")
    destination = make(
        "/b",
        query_status=[INMIGRATE, RUNNING],
        query_migrate=[{}, DONE],
        migrate_incoming=[unexpected, {}],
    )
    assert followed(make("/a", query_migrate=[DONE]), destination).status == "completed"
    assert destination.executed.count("migrate-incoming") == 2


def test_a_source_that_does_not_answer_may_migrate_all_the_same(make: Make) -> None:
    """It is told to cancel; the destination, which may get the guest, is not ended."""
    source = make("/a", migrate=[ServerError("no answer")])
    destination = make("/b", query_status=[INMIGRATE])
    with pytest.raises(ServerError, match=r"^no answer$"):
        followed(source, destination)
    assert source.executed[-1] == "migrate_cancel"
    assert "quit" not in destination.executed


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "failed", "error-desc": "hung up"}, "source: hung up"),
    ],
)
def test_a_destination_with_the_guest_is_not_ended(
    make: Make, status: dict[str, str], why: str
) -> None:
    destination = make("/b", query_migrate=[{}, DONE], query_status=[INMIGRATE])
    source = make("/a", query_migrate=[status], query_status=[RUNNING])
    outcome = followed(source, destination)
    assert outcome.status == "failed"
    assert outcome.error == f"{why}; the destination has the guest too"
    assert "quit" not in destination.executed


def test_a_destination_that_makes_no_sense_at_the_end(make: Make) -> None:
    destination = make("/b", query_migrate=[{}, 7], query_status=[INMIGRATE])
    with pytest.raises(ServerError, match=r"^unix:/b: its answer to query-migrate makes no sense"):
        followed(make("/a", query_migrate=[DONE]), destination)
    assert "quit" not in destination.executed


@pytest.mark.slow
def test_an_event_that_makes_no_sense(make: Make) -> None:
    source = make("/a", query_migrate=[("STOP", "soon"), ACTIVE])
    with pytest.raises(ServerError, match=r"^unix:/a: it sent text that is not QMP: '{\"event\""):
        followed(source, make("/b", query_status=[INMIGRATE]))


def test_the_private_socket_of_another_user(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is given to the destination's user, by a root that may do so."""
    given: list[tuple[object, ...]] = []
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    monkeypatch.setattr(os, "chown", lambda *to: given.append(to))
    destination = make("/b", query_migrate=[{}, DONE], query_status=[INMIGRATE, RUNNING])
    assert followed(make("/a", query_migrate=[DONE]), destination).status == "completed"
    ((directory, *to),) = given
    assert to == [user, -1]
    assert not Path(str(directory)).exists()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    destination = make("/b", query_status=[INMIGRATE])
    with pytest.raises(UsageError, match=r"^give --uri: unix:/b is of another user$"):
        followed(make("/a"), destination)


def test_the_user_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the owner of the socket's file."""
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr(os, "stat", {"/b": SimpleNamespace(st_uid=7)}.__getitem__)
    client = Answers("/b")
    assert _user(cast("Client", client)) == 7
    client.close()


def test_no_private_socket_between_machines(make: Make) -> None:
    source = make("/a")
    source.address = ServerAddress(("here", 1))
    with pytest.raises(UsageError, match=r"^give --uri: tcp:here:1 may be out of reach"):
        followed(source, make("/b", query_status=[INMIGRATE]))


def test_it_is_cancelled_if_the_caller_fails(make: Make) -> None:
    source = make("/a", query_migrate=[ACTIVE])
    destination = make("/b", query_status=[INMIGRATE])

    def fail(_figures: Figures) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        followed(source, destination, fail)
    assert source.executed[-1] == "migrate_cancel"


@pytest.mark.parametrize("info", [{"status": "active", "ram": 7}, {"ram": {"total": "x"}}])
def test_a_source_that_makes_no_sense(make: Make, info: dict[str, Any]) -> None:
    source = make("/a", query_migrate=[info])
    destination = make("/b", query_status=[INMIGRATE])
    with pytest.raises(ServerError, match=r"^unix:/a: its answer to query-migrate makes no"):
        followed(source, destination)
    assert source.executed[-1] == "migrate_cancel"
