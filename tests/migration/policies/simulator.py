"""A guest, its limiter and a link in simulated time, to drive policies.

Memory is a map of pages; a step is a millisecond. The limiter is the real one's algorithm, with its
properties that a policy must live with: a vCPU runs in bursts that cost it 30 ms of pause, a page
counts anew once it is protected again, and a limit that is set costs accuracy (`forgiving`).
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
RING = 16  # MB that a vCPU dirties until its ring is full
WINDOW = 100  # steps over which rates and bandwidth are measured
SENT, COLD, WARM, HOT = range(4)  # states of a page; hot ones were found soon after they were sent
FIRST_HARVESTS = 3  # what they find is hot
STOP = 0.0003  # the guest runs on so long after the decision to stop it


def pages(megabytes: float) -> int:
    """Return the number of pages of so many MB."""
    return int(megabytes * MB) // PAGE


class Memory:
    """Pages, and what is known of them.

    Args:
        count: The number of pages.
        deferred: A page that was harvested stays writable until it is sent, as in this server; else
            it is protected again at once, also when a ring is full.
    """

    def __init__(self, count: int, *, deferred: bool = False) -> None:
        self.deferred = deferred
        self.dirty = bytearray(count)  # stored to and not harvested
        self.writable = bytearray(count)  # a store costs nothing and is not logged
        self.resets = 0

    def store(self, page: int) -> None:
        """Store to a page that is not writable."""
        self.dirty[page] = self.writable[page] = 1

    def reset(self) -> None:
        """Empty the rings, and protect the pages that were found."""
        self.resets += 1
        if not self.deferred:
            self.writable = bytearray(len(self.writable))


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
        self._ring = self._reset = 0  # entries since that reset

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

    def run(self, now: float, memory: Memory, seconds: float) -> None:
        """Run for so long, as far as the limit allows."""
        self.possible += self.rate(now) * seconds * MB / PAGE
        self.limited_for += seconds if self.limit else 0.0
        allowed = len(memory.dirty)
        if self.limit:
            self._paid = max(self._paid, now - CREDIT)
            allowed = 0
            if self._paid <= now:
                allowed = math.ceil((now + SLICE - self._paid) * self.limit * MB / PAGE)
        new = self._write(memory, seconds, self.rate(now) * MB / PAGE, allowed) if allowed else 0
        if self.limit:
            self._paid += new * PAGE / (self.limit * MB)
        self.dirtied += new
        self._recent.append(new)

    def _write(self, memory: Memory, seconds: float, speed: float, allowed: int) -> int:
        """Write to pages until the time or the allowed number of protected pages is used up."""
        if not speed:
            return 0
        fault_cost = 1 / speed
        free_cost = fault_cost if self.paced else fault_cost / 100
        left = min(self._spare, fault_cost) + seconds
        new = 0
        for page, skipped in self._targets(memory, left, free_cost):
            passed = min(skipped, int(left / free_cost))
            left -= passed * free_cost
            self.touched += passed
            if passed < skipped or left < fault_cost or new == allowed:
                self._at = self._passing(passed)
                break
            self.touched += 1
            left -= fault_cost
            self._at = page + 1
            if not memory.writable[page]:
                memory.store(page)
                new += 1
                self._ring = self._ring + 1 if self._reset == memory.resets else 1
                self._reset = memory.resets
                if self._ring == pages(RING):
                    memory.reset()
        self._spare = left if new < allowed else 0.0
        return new

    def _passing(self, count: int) -> int:
        """Return where it is after so many pages more."""
        return self._begin + (self._at - self._begin + count) % (self._end - self._begin)

    def _targets(self, memory: Memory, left: float, free_cost: float) -> Iterator[tuple[int, int]]:
        """Yield the next pages, each with the number of writable ones that were passed before."""
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
            page = memory.writable.find(0, at, self._end)
            skipped = (page if page >= 0 else self._end) - at
            if page < 0:
                page = memory.writable.find(0, self._begin, at)
                skipped += (page if page >= 0 else at) - self._begin
            if page < 0:
                skipped = int(left / free_cost) + 1  # nothing but these, as long as it runs
            yield page, skipped


@dataclass
class Outcome:
    """A migration that was simulated; sizes in MB, times in s."""

    total: float = math.inf
    pause: float = math.inf
    sent: float = 0.0
    wrote: float = 0.0  # MB/s in the live phase
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
        cold_first: The sender prefers pages that no harvest has found dirty, and sends hot ones
            last; a page that was found dirty is not found again until it was sent.
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
        self.memory = Memory(count, deferred=self.cold_first)
        self.waiting = bytearray([COLD]) * count
        self.pending = count
        self.added = self.sent = 0
        self.rounds = 1
        self.throttle = 0
        self._sent_in = [0] * count  # the round in which each page was last sent
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
                vcpu.run(now, self.memory, STEP * (1 - self.throttle / 100))
            self._send(self.bandwidth(now) * MB / PAGE * STEP)
            steps += 1
        for vcpu in self.vcpus:
            outcome.wrote += vcpu.touched * PAGE / MB / max(now, STEP)
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
            unharvested=self.memory.dirty.count(1) * PAGE,
            waiting=(self.pending - self._cold()) * PAGE if self.cold_first else 0,
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
        """Make dirty pages pending."""
        before = self.pending
        is_early = self.rounds <= FIRST_HARVESTS
        page = self.memory.dirty.find(1)
        while page >= 0:
            if not self.cold_first:
                self.waiting[page] = COLD
            elif is_early or self._sent_in[page] >= self.rounds - 1:
                self.waiting[page] = HOT
            elif self.waiting[page] != HOT:
                self.waiting[page] = WARM
            page = self.memory.dirty.find(1, page + 1)
        self.memory.dirty = bytearray(len(self.memory.dirty))
        self.memory.reset()
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
            self._sent_in[page] = self.rounds
            if not self.memory.dirty[page]:
                self.memory.writable[page] = 0
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
            vcpu.run(now, self.memory, STOP)
        self._harvest()
        outcome.pause = self.overhead + self.pending * PAGE / (self.bandwidth(now) * MB)
        outcome.total = now + STOP + outcome.pause
        self.sent += self.pending
