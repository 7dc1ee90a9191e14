"""A test's conversation beside a transcript of it: see `qmpserver.transcript.format`."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from qmpserver.transcript.format import Rules, compare, compare_exactly, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.transcript.format import Message


def written(said: Sequence[Message]) -> str:
    """Return the transcript that this conversation fits."""
    return "".join(f"{line}\n" for line in ("#! ignore id", *said))


def differences(transcript: str, said: Sequence[Message]) -> list[str]:
    """Return where a conversation is not as in a transcript, a line for each place.

    What each client says, and what it is answered, is compared in order; events in any order, if
    the transcript is not to be exact. The greeting is left out, and where the transcript has no
    negotiation, that too.

    Raises:
        TranscriptError: It is none.
    """
    wanted = read(transcript)
    if not any(one.command == "qmp_capabilities" for one in wanted.messages):
        said = list(_negotiated(said))
    return [
        what
        for client in sorted({one.client for one in (*wanted.messages, *said)})
        for what in _differences(
            [one for one in wanted.messages if one.client == client],
            [one for one in said if one.client == client],
            wanted.rules,
        )
    ]


def _differences(wanted: list[Message], said: list[Message], rules: Rules) -> Iterator[str]:
    for who, kind in (("client", "command"), ("server", "answer")):
        for one, got in zip_longest(*(_in_order(who, said, rules) for said in (wanted, said))):
            if got is None:
                yield f"line {one.line}: no {kind} {one.text}"
            elif one is None:
                yield f"unexpected {kind} {got.text}"
            else:
                for what in _compare(one, got, rules):
                    yield f"line {one.line}: {kind} {what}"
    if rules.events and not rules.exact:
        left = [one for one in said if one.is_event]
        for one in wanted:
            if one.is_event:
                fitting = [got for got in left if not _compare(one, got, rules)]
                if fitting:
                    left.remove(fitting[0])
                else:
                    yield f"line {one.line}: no event {one.text}"
        for got in left:
            yield f"unexpected event {got.text}"


def _compare(expected: Message, got: Message, rules: Rules) -> list[str]:
    if rules.exact:
        return compare_exactly(expected, got, rules)
    return compare(expected.value, got.value, rules)


def _in_order(who: str, said: list[Message], rules: Rules) -> list[Message]:
    return [
        one
        for one in said
        if one.who == who and not one.is_greeting and (rules.exact or not one.is_event)
    ]


def _negotiated(said: Sequence[Message]) -> Iterator[Message]:
    """Leave out negotiations, and their answers: the next that the client gets."""
    unanswered: set[int] = set()
    for one in said:
        if one.command == "qmp_capabilities":
            unanswered.add(one.client)
        elif one.client in unanswered and one.who == "server" and not one.is_event:
            unanswered.discard(one.client)
        else:
            yield one
