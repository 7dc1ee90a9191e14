"""Comparing the whole conversation of a test with a transcript of it."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from qmpserver.transcript.compare import compare_messages
from qmpserver.transcript.format import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.transcript.compare import Rules
    from qmpserver.transcript.message import Message, Who


def differences(transcript: str, said: Sequence[Message]) -> list[str]:
    """Return the places where a conversation differs from a transcript, as text.

    The commands of each client, and the replies to it, are compared in order; events in any order
    unless the transcript is exact. Greetings are not compared, and negotiations only if the
    transcript has one.

    Raises:
        TranscriptError: `transcript` is not a transcript.
    """
    wanted = read(transcript)
    if not any(one.command == "qmp_capabilities" for one in wanted.messages):
        said = list(_without_negotiations(said))
    return [
        difference
        for client in sorted({one.client for one in (*wanted.messages, *said)})
        for difference in _differences(
            [one for one in wanted.messages if one.client == client],
            [one for one in said if one.client == client],
            wanted.rules,
        )
    ]


def _differences(wanted: list[Message], said: list[Message], rules: Rules) -> Iterator[str]:
    sides: tuple[tuple[Who, str], ...] = (("client", "command"), ("server", "answer"))
    for who, kind in sides:
        for one, got in zip_longest(_in_order(who, wanted, rules), _in_order(who, said, rules)):
            if got is None:
                yield f"line {one.line}: no {kind} {one.text}"
            elif one is None:
                yield f"unexpected {kind} {got.text}"
            else:
                for difference in compare_messages(one, got, rules):
                    yield f"line {one.line}: {kind} {difference}"
    if rules.events and not rules.exact:
        yield from _event_differences(wanted, said, rules)


def _event_differences(wanted: list[Message], said: list[Message], rules: Rules) -> Iterator[str]:
    left = [one for one in said if one.is_event]
    for one in wanted:
        if one.is_event:
            fitting = [got for got in left if not compare_messages(one, got, rules)]
            if fitting:
                left.remove(fitting[0])
            else:
                yield f"line {one.line}: no event {one.text}"
    for got in left:
        yield f"unexpected event {got.text}"


def _in_order(who: Who, said: list[Message], rules: Rules) -> list[Message]:
    return [
        one
        for one in said
        if one.who == who and not one.is_greeting and (rules.exact or not one.is_event)
    ]


def _without_negotiations(said: Sequence[Message]) -> Iterator[Message]:
    """Leave out each negotiation, and the next reply to the same client, which answers it."""
    unanswered: set[int] = set()
    for one in said:
        if one.command == "qmp_capabilities":
            unanswered.add(one.client)
        elif one.client in unanswered and _is_reply(one):
            unanswered.discard(one.client)
        else:
            yield one


def _is_reply(one: Message) -> bool:
    return one.who == "server" and not (one.is_event or one.is_greeting)
