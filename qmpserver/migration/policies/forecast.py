"""Before a migration starts: can a promise be kept, and how fast the guest will be.

Cautious: it takes each page that the guest dirties to be sent once more. Pages that are pending
anyway cost nothing, and limits may wait, so the guest is faster in truth.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from qmpserver.migration.policies.arithmetic import live_seconds, water_level
from qmpserver.migration.policies.policy import MB
from qmpserver.migration.policies.promise import PAUSE

if TYPE_CHECKING:
    from collections.abc import Sequence


class Forecast(NamedTuple):
    """An answer; times in seconds.

    Attributes:
        possible: The promise can be kept; true if there is none.
        shortest_total: With the guest held all the time, at 1 MB/s for each vCPU.
        unlimited_total: With a guest that is not slowed; infinite: it would never end.
        expected_total: Of a migration with this promise; infinite: it would never end.
        expected_downtime: Its pause.
        level: The rate that no vCPU may exceed, bytes/s; infinite: no limit is needed.
        kept: The share of its speed that each vCPU keeps on average, or more; 0 to 1.
    """

    possible: bool
    shortest_total: float
    unlimited_total: float
    expected_total: float
    expected_downtime: float
    level: float
    kept: tuple[float, ...]


def forecast(
    *,
    data: float,
    bandwidth: float,
    rates: Sequence[float],
    downtime_limit: float,
    total_time: float = 0.0,
    working_set: float = math.inf,
    overhead: float = 0.0,
) -> Forecast:
    """Return the forecast of a migration.

    Args:
        data: Bytes of RAM that are not zero.
        bandwidth: Bytes/s of the link, above 0.
        rates: How fast each vCPU dirties memory, bytes/s.
        downtime_limit: The longest pause that is allowed, seconds.
        total_time: The promised total, with the pause, seconds; 0: nothing is promised.
        working_set: Bytes to which the guest writes over and over; infinite: unknown.
        overhead: Seconds of pause that are not spent on sending RAM.
    """
    pause = PAUSE * downtime_limit
    rest = bandwidth * max(0.0, pause - overhead)
    at_end = overhead + min(data, rest) / bandwidth
    shortest = live_seconds(data, rest, bandwidth, len(rates) * MB) + at_end
    if working_set <= rest:
        unlimited = overhead + data / bandwidth
        at_end = overhead + working_set / bandwidth
    else:
        unlimited = live_seconds(data, rest, bandwidth, sum(rates)) + at_end
    possible = not total_time or min(shortest, unlimited) <= total_time
    level = math.inf
    if total_time and unlimited > total_time:
        novel = bandwidth - (data - rest) / (total_time - pause) if total_time > pause else 0.0
        level = water_level(rates, novel)
    return Forecast(
        possible=possible,
        shortest_total=shortest,
        unlimited_total=unlimited,
        expected_total=max(shortest, total_time) if level < math.inf else unlimited,
        expected_downtime=at_end,
        level=level,
        kept=tuple(min(1.0, level / rate) if rate else 1.0 for rate in rates),
    )
