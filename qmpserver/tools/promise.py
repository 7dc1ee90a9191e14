"""The promise of a migration: done within a time, with a pause of at most so much.

A server of this project keeps it by itself; any other source is steered from outside, by the same
policy.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpserver.migration.extensions import FORECAST, TOTAL_TIME
from qmpserver.migration.policies.forecast import forecast
from qmpserver.tools.errors import QmpctlError, RefusedError, sensible
from qmpserver.tools.figures import MIB, Figures, limit_text
from qmpserver.tools.looks import RING
from qmpserver.tools.steering import Steering, cautious_promise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpserver.tools.side import Side

ROOM = 1.5  # times the bytes that vCPUs dirty unslowed: a pause that carries less may be missed


class Promised:
    """A promise, as a context manager around `Migration.start` and `Migration.follow`.

    The pause that is promised is the source's `downtime-limit`. At the end the source is as it was
    before.

    Args:
        source: The source of the migration.
        total_time: The promised total, the pause included, in seconds.

    Attributes:
        total_time: The promised total, in seconds.
        downtime_limit: The longest pause, in seconds.
        forecast: A sentence, made before the start; empty if the figures do not allow one.
        late: The seconds that the migration is expected to take, once the promise cannot be kept
            any more; None as long as it can.
    """

    def __init__(self, source: Side, total_time: float) -> None:
        self.total_time = total_time
        self.downtime_limit = 0.0
        self.forecast = ""
        self.late: float | None = None
        self._source = source
        self._steering: Steering | None = None
        self._end = contextlib.ExitStack()

    def __enter__(self) -> Promised:
        """Prepare the source, and make the forecast; takes up to a second.

        Raises:
            QmpctlError: The source cannot be steered, or refuses the promise.
            ServerError: It has gone, or makes no sense.
        """
        with sensible(self._source, "query-migrate-parameters"):
            parameters = self._source.execute("query-migrate-parameters")
            self.downtime_limit = int(parameters["downtime-limit"]) / 1e3
        with contextlib.ExitStack() as end:
            if TOTAL_TIME in parameters:
                self._entrust(end, parameters[TOTAL_TIME])
            else:
                self._steer(end)
            self._end = end.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def _entrust(self, end: contextlib.ExitStack, before: int) -> None:
        """Have the source keep the promise."""
        self._set_total_time(round(self.total_time * 1e3))
        end.callback(self._forget, before)
        try:
            told = self._source.client.execute(FORECAST)
        except RefusedError:  # the bandwidth is unlimited
            return
        with sensible(self._source, FORECAST):
            shortest = told.get("shortest-total-time", math.inf) / 1e3
            kept = [percent / 100 for percent in told["kept"]]
            self.forecast = _sentence(self.total_time, told["possible"], shortest, kept)

    def _set_total_time(self, milliseconds: int) -> None:
        self._source.execute("migrate-set-parameters", {TOTAL_TIME: milliseconds})

    def _forget(self, before: int) -> None:
        with contextlib.suppress(QmpctlError):
            self._set_total_time(before)

    def _steer(self, end: contextlib.ExitStack) -> None:
        """Steer the source."""
        self._steering = end.enter_context(
            Steering(
                self._source,
                cautious_promise(),
                total_time=self.total_time,
                downtime_limit=self.downtime_limit,
            )
        )
        if not self._steering.bandwidth:
            return
        with sensible(self._source, "query-memory-size-summary"):
            memory = self._source.execute("query-memory-size-summary")
            ram = int(memory["base-memory"]) + int(memory.get("plugged-memory", 0))
        told = forecast(
            data=ram,  # no more than that: the source does not tell how much of it is in use
            bandwidth=self._steering.bandwidth,
            rates=[rate * MIB for rate in self._steering.rates],
            downtime_limit=self.downtime_limit,
            total_time=self.total_time,
        )
        sentence = _sentence(self.total_time, told.possible, told.shortest_total, told.kept)
        self.forecast = f"if all RAM is in use: {sentence}"
        unslowed = RING * len(self._steering.rates)
        room = self._steering.bandwidth * self.downtime_limit
        if min(told.kept) < 1 and ROOM * unslowed > room:
            self.forecast += (
                f"; a pause of {self.downtime_limit * 1e3:.0f} ms may be too short, "
                f"with rings of 4096 entries vCPUs dirty {unslowed / MIB:.0f} MB before a limit "
                "slows them"
            )

    def look(self, figures: Figures) -> Figures:
        """Return the figures with those of the policy; raise as `Steering.look`."""
        if self._steering is None:
            self.late = self._source.late
            return figures
        self._steering.look(figures)
        decision = self._steering.decision
        if decision is None or figures.status != "active":
            return figures
        is_late = not decision.kept and decision.expected_total > self.total_time
        if is_late and self.late is None:
            self.late = decision.expected_total
        texts = [text for text in (figures.throttling,) if text]
        if limits := [limit for limit in self._steering.limits if limit]:
            texts.append(limit_text(limits))
        texts.append(f"expected {decision.expected_total:.1f} s")
        texts.append(f"pause {decision.expected_downtime * 1e3:.0f} ms")
        return replace(figures, throttling=", ".join(texts))


def _sentence(total_time: float, possible: bool, shortest: float, kept: Sequence[float]) -> str:
    """Return the forecast in words."""
    if math.isinf(shortest):
        return f"{total_time:g} s cannot be kept, the migration would never end"
    if not possible:
        return f"{total_time:g} s cannot be kept, it takes {shortest:.1f} s at least"
    if min(kept) >= 1:
        return f"{total_time:g} s can be kept, no vCPU is slowed"
    least, most = min(kept), max(kept)
    share = f"{least:.0%} to {most:.0%}" if f"{least:.0%}" != f"{most:.0%}" else f"{least:.0%}"
    return f"{total_time:g} s can be kept, vCPUs keep {share} of their speed on average, or more"
