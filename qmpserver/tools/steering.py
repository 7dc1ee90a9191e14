"""A migration driven from outside by a policy, over QMP alone."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING

from qmpserver.migration.policies.policy import Look
from qmpserver.tools.errors import QmpctlError, sensible
from qmpserver.tools.figures import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from qmpserver.migration.policies.policy import Decision, Policy
    from qmpserver.tools.figures import Figures
    from qmpserver.tools.side import Side

LEAST_MS = 1  # of `downtime-limit`: the source does not switch over by itself


class Steering:
    """Drives a migration from outside by a policy: limits of vCPUs and `downtime-limit`.

    For a source that decides for itself when to switch over. A context manager around the start and
    the end of the migration; it leaves no limits, and `downtime-limit` as it was.

    Args:
        source: The source; its vCPUs have no limits.
        policy: A new one.
        total_time: Seconds that are promised; 0: none.
        downtime_limit: The longest pause that is allowed, in seconds.

    Attributes:
        decision: The policy's last answer.
    """

    def __init__(
        self,
        source: Side,
        policy: Policy,
        *,
        total_time: float = 0.0,
        downtime_limit: float = 0.3,
    ) -> None:
        self.decision: Decision | None = None
        self._source = source
        self._policy = policy
        self._total_time = total_time
        self._downtime_limit = downtime_limit
        self._limits: tuple[int, ...] = ()
        self._before_ms = self._ms = 0
        self._round = (0, 0.0)

    def __enter__(self) -> Steering:
        parameters = self._source.execute("query-migrate-parameters")
        vcpus = self._source.execute("query-cpus-fast")
        with sensible(self._source, "a query"):
            self._before_ms = self._ms = int(parameters["downtime-limit"])
            self._limits = (0,) * len(vcpus)
        self._allow(LEAST_MS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(QmpctlError):
            self._limit(())
            self._allow(self._before_ms)

    def look(self, figures: Figures) -> None:
        """Ask the policy, and apply its answer.

        Raises:
            QmpctlError: The source refuses.
            ServerError: It has gone, or makes no sense.
        """
        if figures.status != "active":
            return
        now = time.monotonic()
        if figures.rounds != self._round[0]:
            self._round = (figures.rounds, now)
        rate = figures.dirtied * MIB
        decision = self.decision = self._policy.decide(
            Look(
                time=figures.seconds,
                pending=figures.remaining,
                unharvested=round(min(rate * (now - self._round[1]), figures.total)),
                added=0,
                sent=figures.sent,
                rounds=figures.rounds,
                bandwidth=figures.rate * MIB,
                rates=(rate / len(self._limits),) * len(self._limits),
                limits=self._limits,
                downtime_limit=self._downtime_limit,
                total_time=self._total_time,
            )
        )
        if decision.abort:
            self._source.execute("migrate_cancel")
            return
        self._limit(decision.limits)
        expected = decision.expected_downtime * 1000 if decision.switch_over else 0
        self._allow(max(LEAST_MS, math.ceil(expected)))

    def _limit(self, limits: Sequence[int]) -> None:
        """Limit each vCPU, in MB/s; 0: not."""
        wanted = tuple(limits) or (0,) * len(self._limits)
        for index, (limit, before) in enumerate(zip(wanted, self._limits, strict=True)):
            if limit and limit != before:
                arguments = {"cpu-index": index, "dirty-rate": limit}
                self._source.execute("set-vcpu-dirty-limit", arguments)
            elif before and not limit:
                self._source.execute("cancel-vcpu-dirty-limit", {"cpu-index": index})
        self._limits = wanted

    def _allow(self, ms: int) -> None:
        """Set `downtime-limit`."""
        if ms != self._ms:
            self._source.execute("migrate-set-parameters", {"downtime-limit": ms})
            self._ms = ms
