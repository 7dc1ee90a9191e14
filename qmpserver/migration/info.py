"""The result of `query-migrate`, built from figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qmpserver.migration.status import Status

PAGE = 4096
"""The size of a page in bytes."""

UNKNOWN_DOWNTIME = (1 << 63) - 1
"""QEMU's `expected-downtime` while the rate is not known, in ms."""


class Figures:
    """The figures of one outgoing migration. Pages are of `PAGE` bytes.

    Attributes:
        total_time: Time since the migration began, in ms; once it is over, its duration.
        setup_time: Time before the first pass, in ms.
        expected_downtime: Expected duration of the switchover, in ms.
        downtime: Duration of the switchover, in ms; known once the migration has completed.
        total: Size of RAM in bytes.
        remaining: Bytes that are still to be sent.
        transferred: Bytes sent, of pages and of everything else.
        duplicate: Pages of zeros; such a page is sent as its number alone.
        normal: Pages sent whole.
        dirty_pages_rate: Pages that the guest dirties, per second.
        mbps: Throughput in megabits (10^6 bits) per second.
        dirty_sync_count: How often the dirty bitmap was collected.
        pages_per_second: Pages sent, per second.
        multifd_bytes: The part of `transferred` that data channels carried.
        precopy_bytes: The part that was sent while the guest ran.
        downtime_bytes: The part that was sent while it was stopped.
        cpu_throttle: Time that vCPUs are held, in percent; None if they are not throttled.
        limit_round: The longest time that the dirty limit held a vCPU between two full rings, in
            us; None if no limit is in service.
        limit_ring_full: The average time that a vCPU takes to fill its ring, in us; None likewise.
    """

    total_time: int = 0
    setup_time: int = 0
    expected_downtime: int = UNKNOWN_DOWNTIME
    downtime: int = 0
    remaining: int = 0
    transferred: int = 0
    duplicate: int = 0
    normal: int = 0
    dirty_pages_rate: int = 0
    mbps: float = 0.0
    dirty_sync_count: int = 0
    pages_per_second: int = 0
    multifd_bytes: int = 0
    precopy_bytes: int = 0
    downtime_bytes: int = 0
    cpu_throttle: int | None = None
    limit_round: int | None = None
    limit_ring_full: int | None = None

    def __init__(self, total: int = 0) -> None:
        self.total = total


def source_info(figures: Figures, status: Status, *, error: str = "") -> dict[str, Any]:
    """Return the result of `query-migrate` on the source.

    Args:
        figures: The migration's figures.
        status: Its status.
        error: Why it failed; "" if it did not.
    """
    if status == "none":
        return {}
    info: dict[str, Any] = {"status": status}
    if error:
        info["error-desc"] = error
    if status in ("setup", "failed", "cancelled"):
        return info
    info |= {
        "total-time": figures.total_time,
        "setup-time": figures.setup_time,
        "ram": _ram(figures),
    }
    if status == "completed":
        info["downtime"] = figures.downtime
    else:
        info["expected-downtime"] = figures.expected_downtime
        info["remaining"] = figures.remaining
    optional = {
        "cpu-throttle-percentage": figures.cpu_throttle,
        "dirty-limit-throttle-time-per-round": figures.limit_round,
        "dirty-limit-ring-full-time": figures.limit_ring_full,
    }
    return info | {name: value for name, value in optional.items() if value is not None}


def destination_info(
    status: Status, *, addresses: Sequence[Mapping[str, Any]] = (), error: str = ""
) -> dict[str, Any]:
    """Return the result of `query-migrate` on the destination.

    Args:
        status: The migration's status.
        addresses: The sockets that listen for it, shown until it is over: objects of the schema's
            type `SocketAddress`.
        error: Why it failed; "" if it did not.
    """
    if status == "none":
        return {}
    info: dict[str, Any] = {"status": status}
    if error:
        info["error-desc"] = error
    if addresses and status in ("setup", "active"):
        info["socket-address"] = list(addresses)
    return info


def _ram(figures: Figures) -> dict[str, Any]:
    return {
        "transferred": figures.transferred,
        "remaining": figures.remaining,
        "total": figures.total,
        "duplicate": figures.duplicate,
        "normal": figures.normal,
        "normal-bytes": figures.normal * PAGE,
        "dirty-pages-rate": figures.dirty_pages_rate,
        "mbps": figures.mbps,
        "dirty-sync-count": figures.dirty_sync_count,
        "postcopy-requests": 0,
        "page-size": PAGE,
        "multifd-bytes": figures.multifd_bytes,
        "pages-per-second": figures.pages_per_second,
        "precopy-bytes": figures.precopy_bytes,
        "downtime-bytes": figures.downtime_bytes,
        "postcopy-bytes": 0,
        "dirty-sync-missed-zero-copy": 0,
    }
