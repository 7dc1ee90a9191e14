"""The result of `query-migrate` has the members that QEMU 11.1 shows in each status."""

from pathlib import Path
from typing import Any

import pytest

from qmpserver.migration.info import Figures, destination_info, source_info
from qmpserver.migration.status import STATUSES, Side, Status
from qmpserver.qapi import Schema

COMMAND = Schema.load(Path(__file__).parents[2] / "schema" / "qapi-schema.json").commands[
    "query-migrate"
]
SOCKET = {"type": "unix", "path": "/run/migrate"}
TIMED = {"status", "total-time", "setup-time", "ram"}
MEMBERS: dict[Status, set[str]] = {
    "none": set(),
    "setup": {"status"},
    "active": TIMED | {"expected-downtime", "remaining"},
    "pre-switchover": TIMED | {"expected-downtime", "remaining"},
    "device": TIMED | {"expected-downtime", "remaining"},
    "cancelling": TIMED | {"expected-downtime", "remaining"},
    "completed": TIMED | {"downtime"},
    "cancelled": {"status"},
    "failed": {"status"},
}


def figures(**values: float) -> Figures:
    made = Figures()
    for name, value in values.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


FIGURES = figures(
    total_time=1008,
    setup_time=4,
    expected_downtime=12,
    downtime=989,
    total=67641344,
    remaining=4096,
    transferred=504147,
    duplicate=16464,
    normal=60,
    dirty_pages_rate=7,
    mbps=4.5,
    dirty_sync_count=10,
    pages_per_second=8,
    multifd_bytes=9,
    precopy_bytes=386371,
    downtime_bytes=8208,
)


@pytest.mark.parametrize("status", MEMBERS)
def test_members_on_the_source(status: Status) -> None:
    info = source_info(FIGURES, status)
    assert info.keys() == MEMBERS[status]
    COMMAND.validate_result(info)
    if "ram" in info:
        assert info["ram"] == {
            "transferred": 504147,
            "remaining": 4096,
            "total": 67641344,
            "duplicate": 16464,
            "normal": 60,
            "normal-bytes": 245760,
            "dirty-pages-rate": 7,
            "mbps": 4.5,
            "dirty-sync-count": 10,
            "postcopy-requests": 0,
            "page-size": 4096,
            "multifd-bytes": 9,
            "pages-per-second": 8,
            "precopy-bytes": 386371,
            "downtime-bytes": 8208,
            "postcopy-bytes": 0,
            "dirty-sync-missed-zero-copy": 0,
        }


@pytest.mark.parametrize("status", ["failed", "cancelled", "active"])
def test_a_reason_is_shown(status: Status) -> None:
    assert source_info(FIGURES, status, error="gone")["error-desc"] == "gone"
    assert destination_info(status, error="gone")["error-desc"] == "gone"


def test_throttling_is_shown_while_it_lasts() -> None:
    throttled = figures(cpu_throttle=20, limit_round=662012, limit_ring_full=0)
    info = source_info(throttled, "active")
    COMMAND.validate_result(info)
    assert info.keys() - MEMBERS["active"] == {
        "cpu-throttle-percentage",
        "dirty-limit-throttle-time-per-round",
        "dirty-limit-ring-full-time",
    }
    assert info["dirty-limit-ring-full-time"] == 0
    assert info["dirty-limit-throttle-time-per-round"] == 662012
    assert info["cpu-throttle-percentage"] == 20


def test_members_on_the_destination() -> None:
    shown: dict[str, Any] = {}
    for status in STATUSES:
        shown[status] = destination_info(status, addresses=[SOCKET])
        COMMAND.validate_result(shown[status])
    assert shown["none"] == {}
    assert shown["setup"] == {"status": "setup", "socket-address": [SOCKET]}
    assert shown["active"] == {"status": "active", "socket-address": [SOCKET]}
    assert shown["completed"] == {"status": "completed"}
    assert shown["failed"] == {"status": "failed"}
    assert destination_info("setup") == {"status": "setup"}


@pytest.mark.parametrize("side", ["source", "destination"])
def test_nothing_was_migrated(side: Side) -> None:
    assert (source_info(Figures(), "none") if side == "source" else destination_info("none")) == {}
