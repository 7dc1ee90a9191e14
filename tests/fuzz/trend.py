"""Whether a series of measurements grows: a test that a few odd values do not change."""

import itertools
import math
import statistics
from collections.abc import Sequence

SURE = 2.58  # standard deviations: chance alone gives more in one series of 200
WARM_UP = 0.25  # this part of a series is left out: caches fill


def growth(values: Sequence[float]) -> float:
    """Return by how much a series grows from its first to its last value; 0 if it may be chance.

    The first quarter is left out. Whether the rest has a trend is decided by Mann and Kendall's
    test, which looks only at which of two values is larger; by how much it grows is the median of
    the slopes between all pairs (Theil and Sen). A few outliers change neither.
    """
    kept = values[int(len(values) * WARM_UP) :]
    count = len(kept)
    if count < 4:
        return 0.0
    pairs = list(itertools.combinations(range(count), 2))
    signs = sum((kept[b] > kept[a]) - (kept[b] < kept[a]) for a, b in pairs)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if (signs - 1) / deviation < SURE:
        return 0.0
    return statistics.median((kept[b] - kept[a]) / (b - a) for a, b in pairs) * (count - 1)
