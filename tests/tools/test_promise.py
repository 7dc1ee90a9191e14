"""qmpctl migrate --within, from a stand-in for QEMU that answers as a test tells it to."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from qmpserver import CommandError
from qmpserver.migration.policies.policy import Decision, Look
from qmpserver.testing import ServerThread
from qmpserver.tools.address import ServerAddress
from qmpserver.tools.client import Client
from qmpserver.tools.errors import QmpctlError
from qmpserver.tools.figures import Figures
from qmpserver.tools.qemu_limiter import FREE
from qmpserver.tools.side import Side
from qmpserver.tools.steering import Steering
from tests.tools.conftest import PATIENCE, Run
from tests.tools.test_migrate import Pair, migrate, migrating, scripted, serve  # noqa: F401

MB = 1 << 20
WITHIN = ["--within", "10s", "--pause", "200ms"]


def info(seconds: float, remaining: float, rounds: int = 1, mbps: float = 800.0) -> dict[str, Any]:
    ram = {
        "total": 512 * MB,
        "remaining": round(remaining * MB),
        "transferred": round((512 - remaining) * MB),
        "mbps": mbps * MB / 1e6,
        "dirty-sync-count": rounds,
    }
    return {"status": "active", "total-time": round(seconds * 1e3), "ram": ram}


DONE = info(4.0, 0.0) | {"status": "completed", "downtime": 20}


@pytest.fixture
def pair(serve: Any) -> Pair:  # noqa: F811
    slow = {"migration-time": 1000.0}
    source: ServerThread = serve(status="running", cpus=2, memory=512 * MB, **slow)
    destination: ServerThread = serve(status="inmigrate", **slow)
    scripted(destination, {}, {"status": "completed"})
    return source, destination


def limits(source: ServerThread) -> list[tuple[int | None, int]]:
    """The limits that were set, by vCPU."""
    return [
        (arguments.get("cpu-index"), arguments["dirty-rate"])
        for _, arguments in source.received("set-vcpu-dirty-limit")
    ]


def downtimes(source: ServerThread) -> list[int]:
    return [
        arguments["downtime-limit"]
        for _, arguments in source.received("migrate-set-parameters")
        if "downtime-limit" in arguments
    ]


def is_as_before(source: ServerThread) -> bool:
    with Client(ServerAddress(source.path)) as client:
        in_force = client.execute("query-vcpu-dirty-limit")
        return not in_force and client.execute("query-migrate-parameters")["downtime-limit"] == 200


@pytest.mark.slow
def test_it_is_steered(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair
    scripted(source, info(1.0, 400), info(2.0, 300), DONE)
    ran = qmpctl(*migrate(pair, *WITHIN))
    assert (ran.returncode, ran.stderr) == (0, "")
    forecast, *lines = ran.stdout.splitlines()
    assert forecast == (
        "forecast: if all RAM is in use: 10 s can be kept, vCPUs keep 4% of their speed on "
        "average, or more; a pause of 200 ms may be too short, with rings of 4096 entries vCPUs "
        "dirty 32 MB before a limit slows them"
    )
    assert ", limit 38 MB/s, expected 8.5 s, pause 192 ms" in lines[0]
    (_, free), *later = limits(source)
    assert free == FREE
    assert {index for index, _ in later} == {0, 1}
    assert all(0 < limit < 60 for _, limit in later), "each has its share of the link"
    assert downtimes(source) == [200, 1, 200]
    assert is_as_before(source)


@pytest.mark.slow
def test_limits_of_another_client_stay_and_come_back(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair
    scripted(source, info(1.0, 400), DONE)
    with Client(ServerAddress(source.path)) as client:
        client.execute("set-vcpu-dirty-limit", {"cpu-index": 1, "dirty-rate": 7})
    assert qmpctl(*migrate(pair, *WITHIN)).returncode == 0
    with Client(ServerAddress(source.path)) as client:
        left = {
            one["cpu-index"]: one["limit-rate"] for one in client.execute("query-vcpu-dirty-limit")
        }
    assert left == {1: 7}
    assert all(limit == 7 for index, limit in limits(source) if index == 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lifts_limits(pair: Pair, number: signal.Signals) -> None:
    source, destination = pair
    scripted(destination, {})
    now = info(1.0, 400)

    @source.handler("query-migrate")
    def query_migrate() -> Any:
        return now

    @source.handler("migrate_cancel")
    def migrate_cancel() -> None:
        now["status"] = "cancelled"

    with migrating(pair, *WITHIN) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (128 + number, b"")
    assert is_as_before(source)
    destination.wait_received("quit")


@pytest.mark.slow
def test_a_second_signal_lifts_limits(pair: Pair) -> None:
    source, _ = pair
    scripted(source, info(1.0, 400))
    with migrating(pair, *WITHIN) as process:
        process.send_signal(signal.SIGINT)
        source.wait_received("migrate_cancel")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert is_as_before(source)


@pytest.mark.slow
def test_a_failure_lifts_limits(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair
    scripted(source, info(1.0, 400), {"status": "failed", "error-desc": "Broken pipe"})
    assert qmpctl(*migrate(pair, *WITHIN)).returncode == 1
    assert is_as_before(source)


@pytest.mark.slow
def test_a_refusal_lifts_limits(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair

    @source.handler("migrate")
    def refuse(**_: Any) -> None:
        raise CommandError("not now")

    assert qmpctl(*migrate(pair, *WITHIN)).returncode == 1
    assert is_as_before(source)


def test_without_a_ring_nothing_begins(qmpctl: Run, pair: Pair) -> None:
    source, destination = pair

    @source.handler("set-vcpu-dirty-limit")
    def refuse(**_: Any) -> None:
        raise CommandError("no ring")

    ran = qmpctl(*migrate(pair, *WITHIN))
    text = f"qmpctl: unix:{source.path}: vCPUs cannot be limited, start it with "
    text += "-accel kvm,dirty-ring-size=1024: no ring\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", text)
    assert not source.received("migrate")
    assert not destination.received("migrate-incoming")
    assert downtimes(source) == [200]


@pytest.mark.parametrize("name", ["auto-converge", "dirty-limit"])
def test_two_that_slow_the_guest_are_too_many(qmpctl: Run, pair: Pair, name: str) -> None:
    source, _ = pair

    @source.handler("query-migrate-capabilities")
    def query_migrate_capabilities() -> Any:
        return [{"capability": "events", "state": True}, {"capability": name, "state": True}]

    ran = qmpctl(*migrate(pair, *WITHIN))
    text = f"switch the capability {name} off, it would slow the guest too\n"
    assert (ran.returncode, ran.stderr) == (1, f"qmpctl: unix:{source.path}: {text}")
    assert not source.received("migrate")


@pytest.mark.slow
def test_a_promise_that_cannot_be_kept_is_told_once(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair
    late = [info(9.0 + n / 10, 300 - 10 * n) for n in range(3)]
    scripted(source, info(1.0, 400), *late, DONE)
    ran = qmpctl(*migrate(pair, *WITHIN))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("10 s cannot be kept any more: 11.4 s are expected\n") == 1


@pytest.mark.slow
def test_the_promise_as_json(qmpctl: Run, pair: Pair) -> None:
    source, _ = pair
    scripted(source, info(1.0, 400), info(9.0, 300), DONE)
    ran = qmpctl(*migrate(pair, *WITHIN, "--json"))
    assert (ran.returncode, ran.stderr, ran.stdout.count("\n")) == (0, "", 1)
    promise = json.loads(ran.stdout)["promise"]
    assert promise.pop("forecast").startswith("if all RAM is in use: 10 s can be kept")
    assert abs(promise.pop("expected") - 11_380) < 50
    assert promise == {"total-time": 10_000, "downtime-limit": 200, "late": True}


@pytest.mark.parametrize(
    ("words", "option"), [(["--within", "30"], "--within"), (["--pause", "300"], "--pause")]
)
def test_a_plain_number_is_refused(qmpctl: Run, words: list[str], option: str) -> None:
    ran = qmpctl("migrate", "unix:/a", "unix:/b", *words)
    assert ran.returncode == 2
    text = f"argument {option}: '{words[1]}' must be a duration above 0 with its unit, s or ms"
    assert text in ran.stderr


class Scripted:
    """A policy that decides as it is told to, and keeps the looks."""

    def __init__(self, *decisions: Decision) -> None:
        self.looks: list[Look] = []
        self._decisions = list(decisions)

    def decide(self, look: Look) -> Decision:
        self.looks.append(look)
        return self._decisions.pop(0)


@pytest.fixture
def side(pair: Pair) -> Iterator[Side]:
    with Client(ServerAddress(pair[0].path)) as client:
        client.execute("migrate-set-parameters", {"downtime-limit": 200})
        yield Side("source", client)


def figures(remaining: float) -> Figures:
    return Figures("active", 1.0, 512 * MB, round(remaining * MB), 100 * MB, 100.0, 0.0, 1)


@pytest.mark.slow
def test_decisions_become_commands(pair: Pair, side: Side) -> None:
    source = pair[0]
    switch = Decision(switch_over=True, expected_downtime=0.1234, limits=(9, 0))
    policy = Scripted(Decision(limits=(9, 8)), Decision(limits=(9, 0)), switch, Decision())
    with Steering(side, policy, downtime_limit=0.2) as steering:
        for _ in range(4):
            steering.look(figures(200))
        assert steering.decision == Decision()
        steering.look(Figures("device"))
        assert len(policy.looks) == 4, "only an active migration is looked at"
    assert limits(source) == [(None, FREE), (0, 25), (1, 25), (1, FREE), (0, FREE)]
    assert downtimes(source) == [200, 1, 124, 1, 200]
    assert [look.limits for look in policy.looks] == [(0, 0), (9, 8), (9, 0), (9, 0)]
    assert is_as_before(source)


@pytest.mark.slow
@pytest.mark.parametrize(("rest", "downtime"), [(10, [200, 1, 79, 200]), (20, [200, 1, 200])])
def test_a_harvest_is_a_chance_to_switch_over_if_the_rest_fits(
    pair: Pair, side: Side, rest: float, downtime: list[int]
) -> None:
    """The bandwidth is the stand-in's `max-bandwidth`, 128 MB/s, until there are two figures."""
    policy = Scripted(Decision(harvest=True), Decision(limits=(5, 5)))
    with Steering(side, policy, downtime_limit=0.1) as steering:
        steering.look(figures(rest))
    assert downtimes(pair[0]) == downtime
    assert limits(pair[0])[1:] == [(0, 25), (1, 25)]


@pytest.mark.slow
def test_the_policy_gives_up(pair: Pair, side: Side) -> None:
    with Steering(side, Scripted(Decision(abort=True))) as steering:
        steering.look(figures(100))
    pair[0].assert_received("migrate_cancel")
    assert is_as_before(pair[0])


@pytest.mark.slow
def test_a_throttle_cannot_be_applied(pair: Pair, side: Side) -> None:
    with (
        pytest.raises(QmpctlError, match=r"^a policy that throttles all vCPUs cannot be applied"),
        Steering(side, Scripted(Decision(throttle=20))) as steering,
    ):
        steering.look(figures(100))
    assert is_as_before(pair[0])
