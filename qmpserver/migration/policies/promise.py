"""A total and a pause, both kept: limits follow from what remains, the link and the time left.

README.md derives the law; this module is its feedback form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qmpserver.migration.policies.arithmetic import live_seconds, loss, water_level
from qmpserver.migration.policies.policy import MB, Decision
from qmpserver.migration.policies.precopy import Precopy

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Look

PAUSE = 0.96  # of the allowed pause: the rest may take so much of it
OVERDUE = 0.9  # of that rest: the aim when the time is up
SETTLE = 0.1  # s: the shortest time in which the law corrects an error
BURST = 0.03  # s: a limited vCPU runs in bursts of so much of its limit
OBSERVE = 0.15  # s at the start without limits: little is sent yet, so dirty pages cost little
FIRST = 0.03  # s until the first harvest: hot pages that are sent before are sent in vain
GROWTH = 0.05  # s over which the growth of the dirty set is measured
AGAIN = 0.1  # s between harvests at least, unless nothing is pending
HARVEST = 0.2  # s between harvests while cold pages are left, or no vCPU is limited
HARVEST_LIMITED = 0.5  # s between harvests otherwise: each makes a working set count again
CHANGE = 0.04  # smaller changes of the level are left out
HOLD = 0.15  # s between two changes of the level, except for a fall below `AT_LIMIT` of it
AT_LIMIT = 0.7  # of its limit: a vCPU that is as fast would be faster without it
RELEASE = 1.0  # s below that, and the vCPU needs no limit
NEAR = 1.5  # times its speed: a level that would soon reach one more vCPU
AMPLE = 2.0  # times a vCPU's highest rate without a limit: such a limit is none
BROKEN = 1.02  # of the promised total
BEYOND = 0.05  # of the working set: so much that is pending and no part of it is worth waiting for
EARLY = 0.1, 0.01  # of it: when a limited guest gets a higher limit instead of an end


class Promise:
    """Keeps `total_time` and `downtime_limit`, and slows the guest no more than that takes.

    Args:
        slack: The share of the bandwidth that a limit leaves to the guest at least when it begins,
            kept for a link that gets slower or a limiter that is late. With 1 no limit waits.
    """

    def __init__(self, slack: float = 0.25) -> None:
        self._slack = slack
        self._precopy = Precopy()
        self._data = 0  # the most that was pending
        self._asked: Look | None = None  # the look that asked for a harvest
        self._harvested_at = 0.0
        self._harvests = 0
        self._novelty = 1.0  # share of harvested pages that were not pending
        self._free_novel = math.inf  # bytes/s that the guest adds to the rest without a limit
        self._sent_cold = False
        self._measured = (0.0, 0)  # time and size of the dirty set, when its growth was measured
        self._working_set = math.inf  # the dirty set when all of `pending` will have been sent
        # When each vCPU last was as fast as it may be, and what must have left to see it again.
        self._busy_at: dict[int, tuple[float, float]] = {}
        self._free_rates: dict[int, float] = {}  # the highest rate of each while nothing slowed it
        self._is_tight: bool | None = None  # there is no time to observe the guest
        self._level = math.inf  # MB/s
        self._changed_at = -math.inf
        self._told = 0.0  # the promise that was told to be broken

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        if not look.total_time:
            return self._precopy.decide(look)
        if not look.bandwidth and not look.sent:
            return Decision()
        self._learn(look)
        rest = look.sendable(PAUSE * look.downtime_limit)
        sends_cold = look.cold > look.bandwidth * HARVEST  # also until after the next harvest
        novelty = self._novelty if sends_cold else 1.0
        remaining = look.pending + min(novelty * look.unharvested, self._data - look.pending)
        demands = self._demands(look)
        fits = look.remaining <= rest
        left = look.total_time - PAUSE * look.downtime_limit - look.time
        harvest = not fits and self._is_harvest_due(look, rest, sends_cold)
        self._asked = look if harvest else None
        if not harvest:  # the look after it knows more
            self._level = self._law(look, left, remaining, rest, novelty, demands)
        level = self._level

        held = live_seconds(look.pending, rest, look.bandwidth, len(demands) * MB)
        soonest = look.time + held + look.pause(min(look.pending, rest))
        if self._working_set <= rest:
            remaining, added = look.remaining - look.dirty + self._working_set, 0.0
        else:
            added = novelty * sum(demands)
        free = live_seconds(remaining, rest, look.bandwidth, added)
        unlimited = look.time + free + look.pause(min(remaining, rest))
        kept = soonest <= BROKEN * look.total_time
        newly_broken = not kept and self._told != look.total_time
        if newly_broken:
            self._told = look.total_time
        return Decision(
            limits=tuple(
                max(1, round(level)) if rate > level * MB and not self._is_ample(index) else 0
                for index, rate in enumerate(demands)
            ),
            harvest=harvest,
            switch_over=fits and not self._is_early(look),
            expected_total=max(soonest, min(unlimited, look.total_time)),
            expected_downtime=look.pause(min(remaining, rest, self._working_set)),
            kept=kept,
            newly_broken=newly_broken,
        )

    def _learn(self, look: Look) -> None:
        """Take up the result of a harvest, and the growth of the dirty set since then."""
        self._data = max(self._data, look.pending)
        if self._asked is not None:
            novel = look.added - self._asked.added
            self._novelty = min(1.0, novel / self._asked.unharvested)
            if not any(look.limits):
                self._free_novel = novel / max(look.time - self._harvested_at, AGAIN / 2)
            self._harvested_at = look.time
            self._harvests += 1
            self._measured = (look.time, look.dirty)
        since, size = self._measured
        if look.time - since >= GROWTH and not any(look.limits):
            growth = max(0, look.dirty - size) / (look.time - since)
            dirty = look.dirty + growth * look.pending / max(look.bandwidth, 1.0)
            # A known working set that is merely dirty again, after a harvest, stays known.
            if dirty < self._working_set or look.dirty > 1.1 * self._working_set:
                self._working_set = dirty
            self._measured = (look.time, look.dirty)

    def _is_harvest_due(self, look: Look, rest: float, sends_cold: bool) -> bool:
        is_dry = look.pending <= look.bandwidth * 0.02
        is_first_of_hot = self._sent_cold and not sends_cold
        self._sent_cold = sends_cold
        age = look.time - self._harvested_at
        # Early harvests merge dirty pages into what is pending anyway.
        longest = HARVEST_LIMITED if any(look.limits) and not sends_cold else HARVEST
        is_old = age >= (min(longest, max(AGAIN, look.time / 3)) if self._harvests else FIRST)
        # So may a late one, and what is pending and what is dirty fit together.
        may_fit = max(look.pending, look.unharvested) <= rest and age >= AGAIN
        return look.unharvested > 0 and (is_dry or is_first_of_hot or is_old or may_fit)

    def _is_early(self, look: Look) -> bool:
        """Return whether it is better to go on although the rest fits the pause."""
        end = look.time + look.pause(look.remaining)
        earliest, latest = (look.total_time * (1 - share) for share in EARLY)
        others = look.cold if look.waiting else look.pending - self._working_set
        shrinks = others > BEYOND * self._working_set
        return end < latest and (shrinks or (any(look.limits) and end > earliest))

    def _is_ample(self, index: int) -> bool:
        """Return whether the level is far above anything that a vCPU has done without a limit."""
        return self._level * MB > AMPLE * (self._free_rates.get(index) or math.inf)

    def _demands(self, look: Look) -> list[float]:
        """Return how fast each vCPU would dirty memory without a limit; infinite: unknown."""
        demands = []
        gone = look.added - look.pending  # what has left, up to a constant
        share = 0.5 / len(look.rates)  # a free vCPU finds what is sent of its pages, and no more
        for index, (rate, limit) in enumerate(zip(look.rates, look.limits, strict=True)):
            free = self._free_rates.get(index, 0.0)
            if not limit:
                free = max(free, rate)
            # A vCPU that stores to pages that wait does not show it, until they were sent.
            enough = limit * MB or (min(free, look.bandwidth * share) if look.waiting else 0.0)
            unseen = look.pending + look.bandwidth * RELEASE if look.waiting else 0.0
            if rate >= AT_LIMIT * enough:
                self._busy_at[index] = look.time, gone + unseen
            busy_at, seen_from = self._busy_at.get(index, (0.0, -math.inf))
            is_idle = look.time - busy_at >= RELEASE and gone >= seen_from
            if is_idle:
                free = rate
            self._free_rates[index] = free
            if limit:
                demands.append(rate if is_idle else math.inf)
            else:
                demands.append(free if look.waiting else rate)
        if look.time < OBSERVE:  # the rates mean nothing yet
            return [math.inf] * len(demands)
        return demands

    def _law(
        self,
        look: Look,
        left: float,
        remaining: float,
        rest: float,
        novelty: float,
        demands: list[float],
    ) -> float:
        """Return the level, in MB/s, that no vCPU may exceed; infinite for none."""
        if left > SETTLE:  # between two bursts less remains than on average
            aim = rest + BURST / 2 * MB * sum(look.limits)
        else:  # the later it is, the harder it presses
            aim = OVERDUE * rest + look.bandwidth * min(0.0, left)
        novel = look.bandwidth - (remaining - aim) / max(left, SETTLE)
        level = water_level(demands, novel / max(novelty, 0.02)) / MB
        if self._is_tight is None:
            self._is_tight = novel * left < 1.5 * look.bandwidth * OBSERVE
        # The first harvests may find dirty just the pages that were sent first: later ones tell.
        is_new = look.time < OBSERVE or (novelty < 1.0 and self._harvests < 3)
        if is_new and not self._is_tight:
            return math.inf
        growth = (self._data - remaining) / max(left, SETTLE)
        if not any(look.limits) and self._can_wait(look, novel, demands, growth):
            return math.inf
        if self._working_set <= rest and math.inf not in demands:
            level = math.inf
        is_other = not math.isclose(level, self._level, rel_tol=CHANGE)
        has_held = look.time - self._changed_at >= HOLD
        if not is_other or not (has_held or level < AT_LIMIT * self._level):
            return self._level
        self._changed_at = look.time
        return level

    def _can_wait(self, look: Look, novel: float, demands: list[float], growth: float) -> bool:
        """Return whether the guest gains by a limit that comes later and is lower.

        A vCPU that needs no limit must not come to need one by that. All that a limited guest
        dirties is taken to be added to the rest.

        Args:
            look: The present look.
            novel: Bytes/s that the guest may add to the rest from now on.
            demands: Bytes/s that each vCPU would dirty.
            growth: Bytes/s by which the rest can grow at most: no page is dirty twice.
        """
        level = water_level(demands, novel)
        speeds = self._free_rates.values()
        if novel <= self._slack * look.bandwidth or any(level / NEAR < v <= level for v in speeds):
            return False
        return min(self._free_novel, look.bandwidth + growth) - novel < level * loss(speeds, level)
