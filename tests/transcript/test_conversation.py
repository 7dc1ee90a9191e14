"""The bounded store of a conversation."""

import json
from unittest.mock import Mock

import pytest

from qmpserver.transcript import conversation
from qmpserver.transcript.conversation import Conversation
from qmpserver.transcript.message import Message


def said(number: int, size: int = 0) -> Message:
    return Message("client", f"{number}".ljust(size, "x"))


def numbers(kept: Conversation) -> list[int]:
    return [int(one.text.rstrip("x")) for one in kept.messages]


def test_the_last_messages_are_kept() -> None:
    kept = Conversation(keep=3)
    for number in range(5):
        kept.add(said(number))
    assert numbers(kept) == [2, 3, 4]
    assert kept.dropped == 2
    assert str(kept) == "# 2 messages were dropped\n-> 2\n-> 3\n-> 4"
    assert kept.snapshot() == (kept.messages, 2)


def test_long_messages_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "KEPT_CHARACTERS", 100)
    kept = Conversation()
    for number in range(4):
        kept.add(said(number, 40))
    assert numbers(kept) == [2, 3]
    kept.add(said(4, 1000))  # alone more than all may have
    assert numbers(kept) == [4]
    for number in range(5, 9):
        kept.add(said(number, 40))
    assert numbers(kept) == [7, 8]
    assert kept.dropped == 7


def test_all_are_kept_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "KEPT_CHARACTERS", 10)
    kept = Conversation(keep=None)
    for number in range(conversation.KEPT_MESSAGES + 1):
        kept.add(said(number))
    assert len(kept.messages) == conversation.KEPT_MESSAGES + 1
    assert kept.dropped == 0


def test_names_of_dropped_messages_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Conversation(keep=1)
    kept.add(Message("client", '{"execute": "stop"}'))
    assert not kept.has_dropped(None)
    kept.add(Message("server", '{"event": "STOP"}'))
    assert [kept.has_dropped(name) for name in (None, "stop", "STOP")] == [True, True, False]
    kept.add(Message("client", "no JSON"))
    kept.add(Message("client", '{"execute": 5}'))
    assert [kept.has_dropped(name) for name in ("stop", "STOP", "cont")] == [True, True, False]
    monkeypatch.setattr(conversation, "KEPT_NAMES", 3)
    for name in ("a", "b"):
        kept.add(Message("client", f'{{"execute": "{name}"}}'))
    assert not kept.has_dropped("cont")
    kept.add(Message("client", "more"))
    assert kept.has_dropped("cont")  # nobody knows any more
    assert len(kept._lost) == 3


@pytest.mark.parametrize("name", ['"' + "x" * 300 + '"', "[]"])
def test_a_name_that_is_not_remembered(name: str) -> None:
    kept = Conversation(keep=1)
    kept.add(Message("server", f'{{"event": {name}}}'))
    kept.add(Message("client", ""))
    assert kept.has_dropped("cont")


def test_the_standard_bound() -> None:
    kept = Conversation()
    for number in range(10_002):
        kept.add(said(number))
    assert (len(kept.messages), kept.dropped) == (10_000, 2)


def test_listeners_are_called_after_a_message_was_kept() -> None:
    kept = Conversation()
    seen: list[int] = []
    listener = Mock(side_effect=lambda: seen.append(len(kept.messages)))
    with kept.listening(listener):
        kept.add(said(1))
        kept.add(said(2))
    kept.add(said(3))
    assert seen == [1, 2]


def test_a_message_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Mock(side_effect=json.loads)
    monkeypatch.setattr(json, "loads", loads)
    one = Message("client", '{"execute": "stop"}')
    assert not loads.called
    assert (one.command, one.is_json, one.is_event, one.member("id")) == ("stop", True, False, None)
    assert loads.call_count == 1
