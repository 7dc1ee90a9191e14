"""The statuses of a migration, and their order on each side."""

from typing import Literal, get_args

Status = Literal[
    "none",
    "setup",
    "cancelling",
    "cancelled",
    "active",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "completed",
    "failing",
    "failed",
    "colo",
    "pre-switchover",
    "device",
    "wait-unplug",
]
"""A status, in QEMU's order; those of postcopy and COLO never occur here."""

Side = Literal["source", "destination"]

STATUSES: tuple[Status, ...] = get_args(Status)

UNDER_WAY: frozenset[Status] = frozenset(
    {"setup", "active", "pre-switchover", "device", "cancelling", "failing"}
)
"""A migration is in progress: another one is refused, and so are other capabilities."""

OVER: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})
"""The migration has ended; another one may follow."""

_FOLLOWING: dict[Side, dict[Status, frozenset[Status]]] = {
    "source": {
        "none": frozenset({"setup"}),
        "setup": frozenset({"active", "cancelling", "failing"}),
        "active": frozenset({"pre-switchover", "device", "cancelling", "failing"}),
        "pre-switchover": frozenset({"device", "cancelling", "failing"}),
        "device": frozenset({"completed", "cancelling", "failing"}),
        "cancelling": frozenset({"cancelled"}),
        "failing": frozenset({"failed"}),
        "completed": frozenset({"setup"}),
        "failed": frozenset({"setup"}),
        "cancelled": frozenset({"setup"}),
    },
    "destination": {
        "none": frozenset({"setup"}),
        "setup": frozenset({"active", "failed"}),
        "active": frozenset({"completed", "failed"}),
    },
}


def may_follow(before: Status, after: Status, side: Side) -> bool:
    """Return whether a migration on `side` may change from status `before` to status `after`."""
    return after in _FOLLOWING[side].get(before, frozenset())
