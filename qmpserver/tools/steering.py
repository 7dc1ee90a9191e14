"""Drives a migration from outside by a policy: limits of vCPUs and `downtime-limit`, by QMP alone.

For a source that decides for itself when to switch over: QEMU, or this server. It has a bitmap of
dirty pages of its own, and synchronizes it when no more remains than `downtime-limit` takes; so a
low one holds the switchover back, and a higher one lets it look.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

from qmpserver.migration.extensions import TOTAL_TIME
from qmpserver.migration.policies.policy import MB
from qmpserver.migration.policies.promise import Promise
from qmpserver.tools.errors import QmpctlError, RefusedError, sensible
from qmpserver.tools.looks import Looks
from qmpserver.tools.qemu_limiter import FREE, Limiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.migration.policies.policy import Decision, Policy
    from qmpserver.tools.figures import Figures
    from qmpserver.tools.side import Side

HELD_BACK_MS = 1  # with 0, QEMU 7.2 would stop the guest without a look at its dirty pages
RESERVE_S = 0.75  # a vCPU: QEMU's limiter acts once a second, and not before a ring is full
RESERVE = 0.15  # of the promised total, if that is less
MEASURE_S = 1
PATIENCE_S = 5.0
POLL_S = 0.05
THROTTLING = ("auto-converge", "dirty-limit")


def cautious_promise() -> Promise:
    """Return a policy whose limits never wait: those of a QEMU take seconds to act."""
    return Promise(slack=1.0)


class Steering:
    """Steers a migration, as a context manager around `Migration.start` and `Migration.follow`.

    The context begins with a measurement of a second. At its end, however it comes, limits and
    `downtime-limit` are as they were before, if the source still answers.

    Args:
        source: Its source.
        policy: Its policy; one that throttles vCPUs together is refused at its first wish.
        total_time: The promised total, in seconds; 0: nothing is promised.
        downtime_limit: The longest pause that is allowed, in seconds.

    Attributes:
        decision: The last decision; None before the first.
        bandwidth: The source's `max-bandwidth`, in bytes/s; 0: unlimited.
        rates: How fast each vCPU dirties memory, in MB/s.
        limits: The limit of each vCPU, in MB/s; 0: none.
    """

    def __init__(
        self, source: Side, policy: Policy, *, total_time: float = 0.0, downtime_limit: float = 0.3
    ) -> None:
        self.decision: Decision | None = None
        self.bandwidth = 0
        self.rates: list[float] = []
        self.limits: list[int] = []
        self._source = source
        self._policy = policy
        self._total_time = total_time
        self._downtime_limit = downtime_limit
        self._before: list[int] = []  # limits in MB/s, 0 for none: those of another client
        self._in_force: list[int] = []  # the numbers that the source was given
        self._limiter: Limiter | None = None  # of a source whose limiter is inexact
        self._downtime_before = 0
        self._downtime_ms = 0
        self._open_round = 0  # the round that was allowed to be the last one

    def __enter__(self) -> Steering:
        """Prepare the source.

        Raises:
            QmpctlError: The source cannot be steered; the text says why.
            ServerError: It has gone, or makes no sense.
        """
        self._refuse_throttling()
        with sensible(self._source, "query-cpus-fast"):
            vcpus = len(self._source.execute("query-cpus-fast"))
        with sensible(self._source, "query-migrate-parameters"):
            parameters = self._source.execute("query-migrate-parameters")
            self._downtime_ms = self._downtime_before = int(parameters["downtime-limit"])
            self.bandwidth = int(parameters["max-bandwidth"])
            is_exact = TOTAL_TIME in parameters  # as the limiter of this server is
            longest = RESERVE_S * vcpus
            reserve = 0.0 if is_exact else min(longest, RESERVE * self._total_time)
            self._looks = Looks(
                total_time=self._total_time - reserve,
                downtime_limit=self._downtime_limit,
                bandwidth=self.bandwidth,
                switchover_bandwidth=int(parameters.get("avail-switchover-bandwidth", 0)),
            )
        self._before = [0] * vcpus
        with sensible(self._source, "query-vcpu-dirty-limit"):
            for one in self._limits():
                self._before[one["cpu-index"]] = int(one["limit-rate"])
        self._in_force = list(self._before)
        try:
            self._begin()
            if not is_exact:
                self._limiter = Limiter(self.rates)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _refuse_throttling(self) -> None:
        """Refuse a source that would slow its guest by itself."""
        with sensible(self._source, "query-migrate-capabilities"):
            states = self._source.execute("query-migrate-capabilities")
            on = [one["capability"] for one in states if one["state"]]
        for name in THROTTLING:
            if name in on:
                raise QmpctlError(
                    f"{self._source}: switch the capability {name} off, it would slow the guest too"
                )

    def _limits(self) -> list[dict[str, Any]]:
        return list(self._source.execute("query-vcpu-dirty-limit"))

    def _begin(self) -> None:
        """Have the source tell the rates of all vCPUs, and hold its switchover back."""
        try:
            self._source.client.execute("set-vcpu-dirty-limit", {"dirty-rate": FREE})
        except RefusedError as error:
            raise QmpctlError(
                f"{self._source}: vCPUs cannot be limited, start it with "
                f"-accel kvm,dirty-ring-size=1024: {error.desc}"
            ) from None
        self._in_force = [FREE] * len(self._before)
        self._apply(())
        self.rates = self._measure()
        self._set_downtime(HELD_BACK_MS)

    def _end(self) -> None:
        """Leave the source as it was; without an answer, as it is."""
        with contextlib.suppress(QmpctlError):
            if any(self._before):
                self._set_limits(self._before)
            else:
                self._source.execute("cancel-vcpu-dirty-limit")
        with contextlib.suppress(QmpctlError):
            self._set_downtime(self._downtime_before)

    def _measure(self) -> list[float]:
        """Return how fast each vCPU dirties memory, in MB/s; 0 if the source does not tell."""
        rates = [0.0] * len(self._before)
        try:
            arguments = {"calc-time": MEASURE_S, "mode": "dirty-ring"}
            self._source.client.execute("calc-dirty-rate", arguments)
        except RefusedError:  # another measurement is under way
            return rates
        deadline = time.monotonic() + MEASURE_S + PATIENCE_S
        with sensible(self._source, "query-dirty-rate"):
            while (told := self._source.execute("query-dirty-rate"))["status"] != "measured":
                if time.monotonic() > deadline:
                    return rates
                time.sleep(POLL_S)
            for one in told["vcpu-dirty-rate"]:
                rates[one["id"]] = float(one["dirty-rate"])
        return rates

    def look(self, figures: Figures) -> None:
        """Ask the policy, and do as it decides; `Migration.follow` calls this.

        Raises:
            QmpctlError: The source refuses, or the policy wants more than can be done from outside.
            ServerError: The source has gone, or makes no sense.
        """
        if figures.status != "active":
            return
        with sensible(self._source, "query-vcpu-dirty-limit"):
            for one in self._limits():
                self.rates[one["cpu-index"]] = float(one["current-rate"])
        free: list[float] = []
        if self._limiter is not None:
            self._limiter.take(time.monotonic(), self.rates)
            self.rates = list(self._limiter.rates)
            free = [rate * MB for rate in self._limiter.free]
        look = self._looks.take(figures, [rate * MB for rate in self.rates], self.limits, free)
        if look is None:
            return
        decision = self._policy.decide(look)
        harvest = decision.harvest
        if harvest:  # the source does that by itself, and the policy tells nothing else before
            decision = self._policy.decide(look)
        self.decision = decision
        if decision.throttle:
            raise QmpctlError("a policy that throttles all vCPUs cannot be applied from outside")
        if decision.abort:
            self._source.execute("migrate_cancel")
            return
        self._apply(decision.limits)
        pause = 0.0
        if decision.switch_over:
            pause = decision.expected_downtime
        elif harvest:
            pause = look.pause(look.pending)
        if pause > self._downtime_limit:
            pause = 0.0
        elif pause and self._total_time:  # a promise allows the whole pause
            pause, self._open_round = self._downtime_limit, look.rounds
        if look.rounds == self._open_round:  # the source is about to look, and waits for a vCPU
            pause = self._downtime_limit
        self._set_downtime(max(HELD_BACK_MS, math.ceil(pause * 1e3)))

    def _apply(self, limits: Sequence[int]) -> None:
        """Limit vCPUs as a policy decided, but no less than they were limited before."""
        self.limits = list(limits or [0] * len(self._before))
        numbers = []
        for index, (limit, before) in enumerate(zip(self.limits, self._before, strict=True)):
            if before and not 0 < limit < before:
                self.limits[index] = before
                numbers.append(before)
            elif self._limiter is not None:
                numbers.append(self._limiter.quota(index, limit))
            else:
                numbers.append(limit or FREE)
        self._set_limits(numbers)
        if self._limiter is not None:
            self._limiter.quotas = list(self._in_force)

    def _set_limits(self, numbers: Sequence[int]) -> None:
        """Give the source the numbers that have changed, in MB/s; 0 cancels a limit."""
        for index, number in enumerate(numbers):
            if number != self._in_force[index]:
                arguments = {"cpu-index": index, "dirty-rate": number}
                self._source.execute("set-vcpu-dirty-limit", arguments)
                self._in_force[index] = number

    def _set_downtime(self, milliseconds: int) -> None:
        if milliseconds != self._downtime_ms:
            parameters = {"downtime-limit": milliseconds}
            self._source.execute("migrate-set-parameters", parameters)
            self._downtime_ms = milliseconds
