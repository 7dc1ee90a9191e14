"""A test's conversation beside a transcript of it: see `qmpserver.tools.transcript`."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from qmpserver.tools.transcript import Rules, compare, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.tools.transcript import Message


def written(said: Sequence[Message]) -> str:
    """Return the transcript that this conversation fits."""
    return "".join(f"{line}\n" for line in ("#! ignore id", *said))


def differences(transcript: str, said: Sequence[Message]) -> list[str]:
    """Return where a conversation is not as in a transcript, a line for each place.

    What clients say, and what they are answered, is compared in order, events in any order. The
    greeting is left out, and the negotiation, too, where the transcript has none.

    Raises:
        TranscriptError: It is none.
    """
    wanted = read(transcript)
    return list(_differences(list(wanted.messages), list(said), wanted.rules))


def _differences(wanted: list[Message], said: list[Message], rules: Rules) -> Iterator[str]:
    if not any(one.command == "qmp_capabilities" for one in wanted):
        said = list(_negotiated(said))
    for who, kind in (("client", "command"), ("server", "answer")):
        pairs = zip_longest(*(_from(who, messages) for messages in (wanted, said)))
        for one, got in pairs:
            if got is None:
                yield f"line {one.line}: no {kind} {one.text}"
            elif one is None:
                yield f"unexpected {kind} {got.text}"
            else:
                for what in compare(one.value, got.value, rules):
                    yield f"line {one.line}: {kind} {what}"
    if rules.events:
        left = [one for one in said if one.is_event]
        for one in wanted:
            if one.is_event:
                fitting = [got for got in left if not compare(one.value, got.value, rules)]
                if fitting:
                    left.remove(fitting[0])
                else:
                    yield f"line {one.line}: no event {one.text}"
        for got in left:
            yield f"unexpected event {got.text}"


def _from(who: str, messages: list[Message]) -> list[Message]:
    return [one for one in messages if one.who == who and not (one.is_event or one.is_greeting)]


def _negotiated(said: list[Message]) -> Iterator[Message]:
    """Leave out negotiations; their answers are the first that a client gets."""
    unanswered = 0
    for one in said:
        if one.command == "qmp_capabilities":
            unanswered += 1
        elif unanswered and one.who == "server" and not (one.is_event or one.is_greeting):
            unanswered -= 1
        else:
            yield one
