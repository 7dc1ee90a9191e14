"""What clients were expected to send, held against what they sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmpserver.standin.parts import Expectation
    from qmpserver.standin.scenario import Scenario
    from qmpserver.transcript.conversation import Found, ReceivedCommand


def unmet(scenario: Scenario, came: Found[ReceivedCommand]) -> list[str]:
    """Return the expectations that are not met, a line each: what was expected and what came."""
    faults = list(_counts(scenario.expected, came))
    if not faults and scenario.ordered:
        faults += _order(scenario.expected, came)
    if faults:
        names = ", ".join(str(one.name) for one in came) or "nothing"
        faults.append(f"what came: {names}")
    return faults


def _counts(expected: Sequence[Expectation], came: Found[ReceivedCommand]) -> Iterator[str]:
    for one in expected:
        count = sum(one.fits(*command) for command in came)
        if count < one.least or (one.most is not None and count > one.most):
            yield f"expected {one} {_times(one)}, came {count or 'not'}{' times' * (count > 1)}"
            others = [command for command in came if command.name == one.command]
            if others and not count:
                shown = "; ".join(_show(command) for command in others)
                yield f"  other arguments came: {shown}"


def _order(expected: Sequence[Expectation], came: Found[ReceivedCommand]) -> Iterator[str]:
    """Each has to come first after the first of the one before it."""
    at = 0
    before = None
    for one in expected:
        if not one.least:
            continue
        found = next((i for i in range(at, len(came)) if one.fits(*came[i])), None)
        if found is None:
            yield f"expected {one} after {before}, came before it"
            return
        at, before = found + 1, one


def _times(one: Expectation) -> str:
    if one.most is None:
        return "at least once" if one.least == 1 else f"at least {one.least} times"
    if one.least == one.most:
        return {0: "never", 1: "once"}.get(one.least, f"{one.least} times")
    return f"{one.least} to {one.most} times"


def _show(command: ReceivedCommand) -> str:
    import json

    return json.dumps(command.arguments)
