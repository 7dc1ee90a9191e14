"""The mathematics that policies share; README.md derives it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def water_level(demands: Sequence[float], total: float) -> float:
    """Return the level l with sum(min(demand, l)) = total; infinite if the demands fit the total.

    Args:
        demands: How fast each vCPU would go unlimited; may be infinite.
        total: The rate that all of them together are allowed, in the same unit; at least 0.
    """
    left = max(0.0, total)
    for index, demand in enumerate(sorted(demands)):
        fair = left / (len(demands) - index)
        if demand > fair:
            return fair
        left -= demand
    return math.inf


def live_seconds(remaining: float, rest: float, bandwidth: float, added: float) -> float:
    """Return the time until no more than `rest` remains; infinite if it never comes.

    Args:
        remaining: Bytes to send now.
        rest: Bytes that the pause carries.
        bandwidth: Bytes/s of the link.
        added: Bytes/s that the guest adds to what remains.
    """
    if remaining <= rest:
        return 0.0
    return (remaining - rest) / (bandwidth - added) if bandwidth > added else math.inf


def loss(speeds: Iterable[float], level: float) -> float:
    """Return the harm that a level does to vCPUs: the sum of the logarithms of the slowdowns.

    Args:
        speeds: How fast each vCPU goes unlimited, at least 0.
        level: The rate that none may exceed, in the same unit, above 0.
    """
    return sum(math.log(speed / level) for speed in speeds if speed > level)
