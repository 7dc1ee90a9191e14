"""A guest, its limiter and a link in simulated time, to drive policies.

Memory is a map of pages; a step is a millisecond. The limiter is the real one's algorithm, with its
properties that a policy must live with: a vCPU runs in bursts that cost it 30 ms of pause, a page
counts anew after each harvest, and a limit that is set costs accuracy (`forgiving`).
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpserver.migration.policies.policy import MB, Decision, Look, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 1 << 15  # coarser than the real one, for speed
STEP = 0.001
SLICE = 0.03  # the pause that a burst of a limited vCPU costs
CREDIT = 1.0
WINDOW = 100  # steps over which rates and bandwidth are measured
SENT, COLD, WARM, HOT = range(4)  # states of a page; the last harvest has found hot ones dirty
STOP = 0.0003  # the guest runs on so long after the decision to stop it


def pages(megabytes: float) -> int:
    """Return the number of pages of so many MB."""
    return int(megabytes * MB) // PAGE


@dataclass
class Vcpu:
    """A vCPU that writes to a range of memory over and over.

    Args:
        size: MB that it writes to.
        rate: MB/s of clean pages that it can dirty, by time.
        first: MB before the range.
        paced: Does not write faster where pages are dirty already.
        hot: Of ten writes nine go to this share of the range; 0: one page after the other.
        forgiving: The limiter forgets debts when a limit is set.
    """

    size: float
    rate: Callable[[float], float]
    first: float = 0.0
    paced: bool = False
    hot: float = 0.0
    forgiving: bool = False

    limit: int = 0
    touched: int = 0
    dirtied: int = 0
    possible: float = 0.0  # the pages that it would have touched unlimited, if paced
    set_limits: int = 0
    limited_for: float = 0.0

    def __post_init__(self) -> None:
        self._begin = pages(self.first)
        self._end = self._begin + pages(self.size)
        self._at = self._begin
        self._paid = 0.0
        self._spare = 0.0  # seconds of running that are not used up
        self._random = random.Random(1)
        self._recent: deque[int] = deque([0], WINDOW)

    def set_limit(self, now: float, limit: int) -> None:
        """Set the limit in MB/s; 0 for none. An unchanged limit changes nothing."""
        if limit == self.limit:
            return
        self.set_limits += 1
        debt = max(0.0, self._paid - now) * self.limit
        self._paid = now + (min(1.0, debt / limit) if limit and not self.forgiving else 0.0)
        self.limit = limit

    @property
    def measured(self) -> float:
        """Bytes/s that it dirtied over the last 100 ms."""
        return sum(self._recent) * PAGE / (len(self._recent) * STEP)

    def run(self, now: float, dirty: bytearray, seconds: float) -> None:
        """Run for so long, as far as the limit allows."""
        self.possible += self.rate(now) * seconds * MB / PAGE
        self.limited_for += seconds if self.limit else 0.0
        allowed = len(dirty)
        if self.limit:
            self._paid = max(self._paid, now - CREDIT)
            allowed = 0
            if self._paid <= now:
                allowed = math.ceil((now + SLICE - self._paid) * self.limit * MB / PAGE)
        new = self._write(dirty, seconds, self.rate(now) * MB / PAGE, allowed) if allowed else 0
        if self.limit:
            self._paid += new * PAGE / (self.limit * MB)
        self.dirtied += new
        self._recent.append(new)

    def _write(self, dirty: bytearray, seconds: float, speed: float, allowed: int) -> int:
        """Write to pages until the time or the allowed number of clean pages is used up."""
        if not speed:
            return 0
        clean_cost = 1 / speed
        dirty_cost = clean_cost if self.paced else clean_cost / 100
        left = min(self._spare, clean_cost) + seconds
        new = 0
        for page, skipped in self._targets(dirty, left, dirty_cost):
            left -= skipped * dirty_cost
            if left < clean_cost or new == allowed:
                break
            self.touched += skipped + 1
            left -= clean_cost
            self._at = page + 1
            if not dirty[page]:
                dirty[page] = 1
                new += 1
        self._spare = left if new < allowed else 0.0
        return new

    def _targets(
        self, dirty: bytearray, left: float, dirty_cost: float
    ) -> Iterator[tuple[int, int]]:
        """Yield the next pages, each with the number of dirty pages that were passed before it."""
        if self.hot:
            span = self._end - self._begin
            while True:
                share = self.hot if self._random.random() < 0.9 else 1.0
                yield self._begin + int(self._random.random() * span * share), 0
        if self.paced:
            while True:
                yield self._at if self._at < self._end else self._begin, 0
        while True:
            at = self._at if self._at < self._end else self._begin
            page = dirty.find(0, at, self._end)
            skipped = (page if page >= 0 else self._end) - at
            if page < 0:
                page = dirty.find(0, self._begin, at)
                skipped += (page if page >= 0 else at) - self._begin
            if page < 0:
                return
            yield page, skipped


@dataclass
class Outcome:
    """A migration that was simulated; sizes in MB, times in s."""

    total: float = math.inf
    pause: float = math.inf
    sent: float = 0.0
    dirtied: float = 0.0  # MB/s in the live phase
    rounds: int = 1
    broken_at: float = math.inf
    aborted: bool = False
    trace: list[tuple[float, Decision, Look]] = field(default_factory=list)


@dataclass
class Migration:
    """A guest that migrates over a link.

    Args:
        ram: MB that hold data.
        bandwidth: MB/s of the link, by time.
        vcpus: The guest's vCPUs.
        downtime_limit: s.
        total_time: s; 0: nothing is promised.
        cold_first: The sender prefers pages that no harvest has found dirty, and sends those last
            that the last one has found dirty.
        overhead: s of pause that are not spent on sending RAM.
        look: s between two looks.
        noise: The relative error of the measured bandwidth.
    """

    ram: float
    bandwidth: Callable[[float], float]
    vcpus: list[Vcpu]
    downtime_limit: float
    total_time: float = 0.0
    cold_first: bool = True
    overhead: float = 0.002
    look: float = 0.01
    noise: float = 0.0

    def __post_init__(self) -> None:
        count = pages(self.ram)
        self.dirty = bytearray(count)
        self.waiting = bytearray([COLD]) * count
        self.pending = count
        self.added = self.sent = 0
        self.rounds = 1
        self.throttle = 0
        self._cursor = 0
        self._carry = 0.0
        self._sent_recently: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._random = random.Random(2)

    def run(self, policy: Policy, give_up: float = 120.0) -> Outcome:
        """Migrate; the outcome has infinite times if it did not end within `give_up` seconds."""
        outcome = Outcome()
        steps = 0
        every = round(self.look / STEP)
        while (now := steps * STEP) < give_up:
            if steps % every == 0 or not self.pending:
                decision = self._ask(policy, now, outcome)
                if decision.abort:
                    outcome.aborted = True
                    break
                if decision.switch_over:
                    self._switch_over(now, outcome)
                    break
            for vcpu in self.vcpus:
                vcpu.run(now, self.dirty, STEP * (1 - self.throttle / 100))
            self._send(self.bandwidth(now) * MB / PAGE * STEP)
            steps += 1
        for vcpu in self.vcpus:
            outcome.dirtied += vcpu.dirtied * PAGE / MB / max(now, STEP)
        outcome.sent = self.sent * PAGE / MB
        outcome.rounds = self.rounds
        return outcome

    def _ask(self, policy: Policy, now: float, outcome: Outcome) -> Decision:
        for _ in range(3):
            look = self._figures(now)
            decision = policy.decide(look)
            outcome.trace.append((now, decision, look))
            if decision.newly_broken:
                assert outcome.broken_at == math.inf, "told twice"
                outcome.broken_at = now
            self.throttle = decision.throttle
            for index, vcpu in enumerate(self.vcpus):
                vcpu.set_limit(now, decision.limits[index] if decision.limits else 0)
            if not decision.harvest or decision.switch_over:
                return decision
            self._harvest()
        raise AssertionError("the policy harvests again and again")

    def _figures(self, now: float) -> Look:
        sent = sum(count for count, _ in self._sent_recently)
        busy = sum(share for _, share in self._sent_recently) * STEP
        bandwidth = sent * PAGE / busy if busy else self.bandwidth(now) * MB
        return Look(
            time=now,
            pending=self.pending * PAGE,
            unharvested=self.dirty.count(1) * PAGE,
            cold=self._cold() * PAGE,
            added=self.added * PAGE,
            sent=self.sent * PAGE,
            rounds=self.rounds,
            bandwidth=bandwidth * (1 + self._random.uniform(-self.noise, self.noise)),
            rates=tuple(vcpu.measured for vcpu in self.vcpus),
            limits=tuple(vcpu.limit for vcpu in self.vcpus),
            downtime_limit=self.downtime_limit,
            throttle=self.throttle,
            total_time=self.total_time,
            overhead=self.overhead,
        )

    def _cold(self) -> int:
        return self.waiting.count(COLD) if self.cold_first else 0

    def _harvest(self) -> None:
        """Make dirty pages pending and protect them again."""
        before = self.pending
        self.waiting = self.waiting.replace(bytes([HOT]), bytes([WARM]))
        page = self.dirty.find(1)
        while page >= 0:
            self.waiting[page] = HOT if self.cold_first else COLD
            page = self.dirty.find(1, page + 1)
        self.dirty = bytearray(len(self.dirty))
        self.pending = len(self.waiting) - self.waiting.count(SENT)
        self.added += self.pending - before
        self.rounds += 1

    def _send(self, budget: float) -> None:
        """Send pages, cold ones first, in turns over the memory."""
        self._carry += budget
        count = min(int(self._carry), self.pending)
        self._carry -= int(self._carry)
        for _ in range(count):
            page = self._next()
            self.waiting[page] = SENT
            self._cursor = page + 1
        self.pending -= count
        self.sent += count
        self._sent_recently.append((count, count / budget if budget and not self.pending else 1.0))

    def _next(self) -> int:
        for kind in (COLD, WARM, HOT):
            page = self.waiting.find(kind, self._cursor)
            if page < 0:
                page = self.waiting.find(kind)
            if page >= 0:
                return page
        raise AssertionError("nothing is pending")

    def _switch_over(self, now: float, outcome: Outcome) -> None:
        for vcpu in self.vcpus:
            vcpu.run(now, self.dirty, STOP)
        self._harvest()
        outcome.pause = self.overhead + self.pending * PAGE / (self.bandwidth(now) * MB)
        outcome.total = now + STOP + outcome.pause
        self.sent += self.pending
