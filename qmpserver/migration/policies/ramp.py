"""KubeVirt's downtime tuning: the allowed pause grows once a few rounds have passed.

After KubeVirt's enhancement proposal 291.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpserver.migration.policies.precopy import Precopy

if TYPE_CHECKING:
    from qmpserver.migration.policies.policy import Decision, Look


class Ramp:
    """Begins with a short pause and allows longer ones, up to the migration's downtime limit.

    The proposal's limit is 1050 ms.

    Args:
        initial: Seconds of pause that are allowed at first.
        steps: Different pauses that are allowed in turn, the first and the longest among them.
        start_after: The round from which on the pause grows.
        cooldown: Seconds between two increases.
    """

    def __init__(
        self,
        *,
        initial: float = 0.15,
        steps: int = 7,
        start_after: int = 3,
        cooldown: float = 10,
    ) -> None:
        self._precopy = Precopy()
        self._initial = initial
        self._steps = steps
        self._start_after = start_after
        self._cooldown = cooldown
        self._started: float | None = None

    def decide(self, look: Look) -> Decision:
        """Return the answer to a look."""
        if self._started is None and look.rounds >= self._start_after:
            self._started = look.time
        passed = 0.0 if self._started is None else look.time - self._started
        step = min(self._steps - 1, int(passed / self._cooldown))
        first = min(self._initial, look.downtime_limit)
        return self._precopy.answer(
            look, first + step * (look.downtime_limit - first) / (self._steps - 1)
        )
