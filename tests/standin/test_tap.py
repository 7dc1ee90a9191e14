"""Decoding a stand-in's conversation: for whom it is done, once, and what that costs."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.standin import Scenario, StandIn, expect, tap
from qmpserver.standin.expect import Expectations
from qmpserver.standin.log import Log
from qmpserver.standin.tap import Tap
from qmpserver.transcript.format import read
from qmpserver.transcript.message import Message
from qmpserver.transcript.splitter import ByteSplitter
from tests.standin.conftest import Raw


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All bytes that are decoded."""
    seen: list[bytes] = []

    class Splitter(ByteSplitter):
        def feed(self, data: bytes) -> Any:
            seen.append(data)
            return super().feed(data)

    monkeypatch.setattr(tap, "ByteSplitter", Splitter)
    return seen


async def converse(scenario: dict[str, Any], path: Path) -> StandIn:
    stand_in = StandIn(Scenario.read(scenario))
    await stand_in.serve_unix(path)
    client = await Raw.connect(path)
    await client.negotiate()
    await client.execute("query-status")
    await client.execute("stop")
    await client.close()
    await stand_in.close()
    return stand_in


async def test_nothing_is_decoded_for_nobody(
    split: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tapped(*_: object) -> None:
        raise AssertionError("there is no sink")

    monkeypatch.setattr(Tap, "__init__", tapped)
    await converse({}, tmp_path / "q")
    assert split == []


@pytest.mark.parametrize("wanted", [{"log": "said.qmp"}, {"expect": [{"command": "stop"}]}])
async def test_what_is_wanted_is_decoded_once(
    split: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in = await converse(wanted, tmp_path / "q")
    assert b"".join(split).count(b'"query-status"') == 1
    assert stand_in.failures() == []
    if "log" in wanted:
        said = read((tmp_path / "said.qmp").read_text()).messages
        commands = [one.command for one in said if one.who == "client"]
        assert commands == ["qmp_capabilities", "query-status", "stop"]
        assert sum(one.is_event for one in said) == 1


async def test_events_are_waited_for_and_no_longer(split: list[bytes], tmp_path: Path) -> None:
    await converse({"event": [{"event": "POWERDOWN"}]}, tmp_path / "q")
    decoded = b"".join(split)
    assert b"qmp_capabilities" in decoded
    assert b"query-status" not in decoded


async def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    stand_in = await converse({"log": "/dev/full"}, tmp_path / "q")
    assert stand_in.failures() == ["log: /dev/full: No space left on device"]


def taken(*commands: str) -> Expectations:
    scenario = Scenario.read(
        {"expect": [{"command": "stop", "times": 1}, {"command": "netdev_del",
                                                      "arguments": {"id": "a"}}]}
    )  # fmt: skip
    expectations = Expectations(scenario.expected, ordered=True)
    for command in commands:
        expectations.take(Message("client", command))
    return expectations


STOP = '{"execute": "stop"}'
OTHER = '{"execute": "netdev_del", "arguments": {"id": "b"}}'
DELETE = '{"execute": "netdev_del", "arguments": {"id": "a"}}'


def test_expectations_are_counted_as_commands_come() -> None:
    assert taken(STOP, OTHER, DELETE).unmet() == []
    assert taken(DELETE, STOP, DELETE).unmet() == []
    assert taken(DELETE, STOP).unmet() == [
        'expected netdev_del {"id": "a"} after stop; it was not sent after that',
        "commands sent: netdev_del, stop",
    ]
    assert taken(OTHER).unmet() == [
        "expected stop once; it was never sent",
        'expected netdev_del {"id": "a"} at least once; it was never sent',
        '  sent with other arguments: {"id": "b"}',
        "commands sent: netdev_del",
    ]
    assert taken('{"execute": 5}', '["execute"]', "stop").unmet()[-1] == "commands sent: none"


def test_expectations_keep_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expect, "SHOWN_COMMANDS", 2)
    monkeypatch.setattr(expect, "SHOWN_ARGUMENTS", 1)
    lines = taken(STOP, OTHER, OTHER, STOP).unmet()
    assert lines[2] == '  sent with other arguments: {"id": "b"}'
    assert lines[-1] == "commands sent: (2 commands before), netdev_del, stop"


def test_other_arguments_are_told_of_commands_that_never_came() -> None:
    scenario = Scenario.read(
        {"expect": [{"command": "netdev_del", "arguments": {"id": "a"}, "times": 1}]}
    )
    expectations = Expectations(scenario.expected, ordered=False)
    for command in (OTHER, DELETE, DELETE):
        expectations.take(Message("client", command))
    assert len(expectations.unmet()) == 2


def test_the_first_error_ends_a_log() -> None:
    log = Log("/dev/full")
    log.write(Message("client", STOP))
    assert log.failure == "log: /dev/full: No space left on device"
    log.close()
