"""The order of statuses, as QEMU 11.1 goes through them."""

import itertools

import pytest

from qmpserver.migration.status import OVER, STATUSES, UNDER_WAY, Side, Status, may_follow

SOURCE: list[list[Status]] = [
    ["none", "setup", "active", "device", "completed", "setup"],
    ["none", "setup", "active", "pre-switchover", "device", "completed"],
    ["none", "setup", "cancelling", "cancelled", "setup"],
    ["none", "setup", "active", "cancelling", "cancelled"],
    ["none", "setup", "active", "pre-switchover", "cancelling", "cancelled"],
    ["none", "setup", "failing", "failed", "setup"],
    ["none", "setup", "active", "failing", "failed"],
    ["none", "setup", "active", "device", "failing", "failed"],
]
DESTINATION: list[list[Status]] = [
    ["none", "setup", "active", "completed"],
    ["none", "setup", "failed"],
    ["none", "setup", "active", "failed"],
]


@pytest.mark.parametrize(("side", "courses"), [("source", SOURCE), ("destination", DESTINATION)])
def test_courses_are_allowed_and_nothing_skips(side: Side, courses: list[list[Status]]) -> None:
    seen = {pair for course in courses for pair in itertools.pairwise(course)}
    allowed = {
        (before, after)
        for before in STATUSES
        for after in STATUSES
        if may_follow(before, after, side)
    }
    assert seen <= allowed
    skipping = {
        (one[0], one[2])
        for course in courses
        for one in zip(course, course[1:], course[2:], strict=False)
    }
    assert not (skipping - seen) & allowed


def test_a_completed_migration_is_never_cancelled() -> None:
    for status in OVER:
        assert not any(may_follow(status, after, "destination") for after in STATUSES)
        assert {after for after in STATUSES if may_follow(status, after, "source")} == {"setup"}


def test_each_status_that_occurs_is_under_way_or_over_or_none() -> None:
    occurring = {status for course in SOURCE + DESTINATION for status in course}
    assert occurring == UNDER_WAY | OVER | {"none"}
    assert not UNDER_WAY & OVER
