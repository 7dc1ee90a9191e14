"""QEMU's auto-converge: takes more and more time from all vCPUs until rounds shrink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.precopy import Precopy
from qmpserver.migration.policies.trigger import Trigger

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Decision, Look

LONG_ROUND = 5.0  # s: in a longer round, QEMU harvests and checks all the same


class AutoConverge:
    """Throttles all vCPUs alike, also those that dirty nothing.

    Args:
        trigger_threshold: `throttle-trigger-threshold`, percent.
        initial: `cpu-throttle-initial`, percent of the vCPUs' time.
        increment: `cpu-throttle-increment`, percent of the vCPUs' time.
        tailslow: `cpu-throttle-tailslow`: add no more than the last check shows to be needed.
        maximum: `max-cpu-throttle`, percent of the vCPUs' time.
    """

    def __init__(
        self,
        *,
        trigger_threshold: int = 50,
        initial: int = 20,
        increment: int = 10,
        tailslow: bool = False,
        maximum: int = 99,
    ) -> None:
        self._precopy = Precopy()
        self._trigger = Trigger(trigger_threshold)
        self._initial = initial
        self._increment = increment
        self._tailslow = tailslow
        self._maximum = maximum
        self._throttle = 0
        self._harvested = (0, 0.0)  # rounds, and the time at which the last one began

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        if self._trigger.fires(look):
            self._throttle = min(self._maximum, self._throttle + self._step())
        if look.rounds != self._harvested[0]:
            self._harvested = (look.rounds, look.time)
        is_long = look.unharvested > 0 and look.time - self._harvested[1] >= LONG_ROUND
        decision = self._precopy.answer(look, look.downtime_limit, throttle=self._throttle)
        return decision._replace(harvest=decision.harvest or is_long)

    def _step(self) -> int:
        if not self._throttle:
            return self._initial
        if not self._tailslow:
            return self._increment
        running = 100 - self._throttle
        return min(self._increment, round(running - running / self._trigger.excess))
